"""The oracle: ZOGY written once more, straight from the paper, with full complex FFTs in float64 and no cleverness.

Frames are periodic and whole; the engine's padding is given to it from outside, so the two share no code.
"""

from __future__ import annotations

import numpy as np

FLOOR = 1e-12


def place(stamp: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put an odd stamp into a frame pixel by pixel, its middle at (0, 0)."""
    frame = np.zeros(shape)
    cy, cx = stamp.shape[0] // 2, stamp.shape[1] // 2
    for y in range(stamp.shape[0]):
        for x in range(stamp.shape[1]):
            frame[(y - cy) % shape[0], (x - cx) % shape[1]] += stamp[y, x]
    return frame


def noise_power(autocorrelation: np.ndarray, shape: tuple[int, int], floor: float) -> np.ndarray:
    """The power spectrum of noise with this autocorrelation on a whole frame, above a part of the largest power."""
    power = np.fft.fft2(place(autocorrelation, shape)).real
    least = floor * np.fft.fft2(place(autocorrelation, (64, 64))).real.max()
    return (power / 2 + np.sqrt(power**2 / 4 + least**2)) / (0.5 + np.sqrt(0.25 + floor**2))


def zogy_oracle(
    N, R, Pn, Pr, sn, sr, Fn, Fr, Vn, Vr, dy=0.0, dx=0.0, eps=0.0, En=0.0, Er=0.0, qn=1.0, qr=1.0, tn=1.0, tr=1.0
):
    """All products of one pair on a periodic frame. PSFs are frames with their centre at (0, 0).

    qn and qr are the power spectra of the noise in units of sn² and sr² that the filter is made for, tn and tr the true
    ones, numbers or frames.
    """
    fft, ifft = np.fft.fft2, np.fft.ifft2
    n_, r_, pn, pr = fft(N), fft(R), fft(Pn), fft(Pr)
    den = sn**2 * qn * Fr**2 * np.abs(pr) ** 2 + sr**2 * qr * Fn**2 * np.abs(pn) ** 2
    white2 = sn**2 * Fr**2 + sr**2 * Fn**2
    ok = den > FLOOR * white2 * qn * qr
    safe = np.where(ok, den, 1.0)
    FD = Fr * Fn / np.sqrt(sn**2 * np.ravel(qn)[0] * Fr**2 + sr**2 * np.ravel(qr)[0] * Fn**2)
    equal = (Fr * n_ / np.sqrt(qn) - Fn * r_ / np.sqrt(qr)) / np.sqrt(white2)
    D = ifft(np.where(ok, (Fr * pr * n_ - Fn * pn * r_) / np.sqrt(safe), equal)).real
    PD = ifft(np.where(ok, Fr * Fn * pr * pn / (FD * np.sqrt(safe)), 0)).real
    kn = np.where(ok, Fn * Fr**2 * pn.conj() * np.abs(pr) ** 2 / safe, 0)
    kr = np.where(ok, Fr * Fn**2 * pr.conj() * np.abs(pn) ** 2 / safe, 0)
    SN, SR = ifft(kn * n_).real, ifft(kr * r_).real
    S = SN - SR
    wn, wr = ifft(kn * np.sqrt(tn)).real, ifft(kr * np.sqrt(tr)).real
    V = ifft(fft(Vn) * fft(wn**2)).real + ifft(fft(Vr) * fft(wr**2)).real
    V = np.maximum(V, np.finfo(float).tiny)  # rounding, far out in the padding
    if np.any(En) or np.any(Er):
        # what the fill may have wrong is coherent
        V = V + np.maximum(0, ifft(fft(En) * fft(abs(ifft(kn).real)) + fft(Er) * fft(abs(ifft(kr).real))).real) ** 2
    slope = lambda a, axis: ((np.roll(a, -1, axis) - np.roll(a, 1, axis)) / 2) ** 2  # noqa: E731
    Vast = (
        dy**2 * (slope(SN, 0) + slope(SR, 0))
        + dx**2 * (slope(SN, 1) + slope(SR, 1))
        + (eps * np.where(SN * SR > 0, np.minimum(abs(SN), abs(SR)), 0)) ** 2
    )
    FS = np.mean(np.where(ok, Fn**2 * Fr**2 * np.abs(pn) ** 2 * np.abs(pr) ** 2 / safe, 0))
    return {
        "difference": D / FD,
        "psf": PD,
        "score": S,
        "score_corr": S / np.sqrt(V + Vast),
        "flux": S / FS,
        "flux_error": np.sqrt(V) / FS,
        "F_D": FD,
        "F_S": FS,
    }
