"""The schedule of one batch of subtractions: which step reads and writes which buffer, and where the buffers lie.

A `Program` is data: a list of steps over named buffers. `place` gives every buffer one of a few equal slots of memory;
a slot is used again as soon as its last reader is done. `traffic` counts the bytes that each step must move. Nothing
here touches a device, so that both are tested without one.

Buffers in lower case are frames (batch, py, px) of floats, in upper case half spectra (batch, py, px // 2 + 1):

======  =====================================  ======  ==========================================
n, N    science                                kn, KN  k_n squared
r, R    reference                              kr, KR  k_r squared
vn, VN  variance of the science image          an, AN  size of k_n
vr, VR  variance of the reference              ar, AR  size of k_r
en, EN  error of what was filled, science      Pn, Pr  PSFs
er, ER  the same of the reference              d, D    the difference
v, V    V_N(S) + V_R(S)                        sn, Sn  S_N, or S where the two need not be kept apart
e, E    what fills may bring into S            sr, Sr  S_R
Wn, Wr  what makes noise white                 XN, XR  N and R with white noise
======  =====================================  ======  ==========================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Program", "Spec", "Step", "bytes_per_image", "check", "compile_program", "place", "traffic"]

INPUT, MIDDLE, OUTPUT = range(3)


@dataclass(frozen=True)
class Spec:
    """What a batch has to do.

    Attributes
    ----------
    shape, padded : (ny, nx), (py, px)
    batch : int
        Images at a time.
    difference, score, variance : bool
        Which inverse transforms are wanted: D, S, V(S).
    split : bool
        Keep S_N and S_R apart: registration noise or a flux-ratio error needs both.
    own : frozenset of str
        Which of R, Pn, Pr, k, VN, VR differ from image to image; the others are shared and transformed once.
    errors : frozenset of str
        Which of EN, ER there are: errors of filled pixels.
    maps : frozenset of str
        Which of VN, VR are read from maps (not from one number).
    flagged : bool
        Whether any pixel is flagged; if none is, flags are not read.
    inputs_first : bool
        Order the steps as inputs, transforms, outputs, so that the transforms are one block: for a graph.
    numbers : bool
        Make the numbers of each pair (F_S, the floor of V) with its kernels, instead of before: a stream's pairs are
        not known before.
    outputs : int
        Number of maps written, for counting.
    colour : frozenset of str
        Which of Wn, Wr there are.
    """

    shape: tuple[int, int]
    padded: tuple[int, int]
    batch: int
    difference: bool = True
    score: bool = True
    variance: bool = True
    split: bool = False
    own: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset({"VN", "VR"})
    flagged: bool = True
    inputs_first: bool = False
    numbers: bool = False
    outputs: int = 4
    colour: frozenset[str] = frozenset()

    @property
    def own_variance(self) -> bool:
        """Whether V(S) differs from image to image."""
        return bool(self.own & {"VN", "VR", "k"})


@dataclass(frozen=True)
class Step:
    """One launch, or one transform.

    Attributes
    ----------
    kind, about : str
        What runs, and on which of its inputs.
    reads, writes : tuple of str
        Buffers. Names not written by any step of the program are shared by all batches.
    over : mapping of str to str
        Outputs that may lie on an input, because each thread reads there before it writes.
    ruins : tuple of str
        Inputs that are garbage afterwards: a transform to real numbers destroys its spectrum.
    phase : int
        INPUT reads the caller's arrays, OUTPUT writes them, MIDDLE touches nothing but buffers.
    """

    kind: str
    about: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    over: Mapping[str, str] = field(default_factory=dict)
    ruins: tuple[str, ...] = ()
    phase: int = MIDDLE


@dataclass(frozen=True)
class Program:
    """Steps in order, and the slot of every buffer they write."""

    spec: Spec
    steps: tuple[Step, ...]
    slots: Mapping[str, int]

    @property
    def slot_count(self) -> int:
        """How many slots of memory, each of one half spectrum a batch."""
        return 1 + max(self.slots.values(), default=-1)


def compile_program(spec: Spec) -> Program:
    """Return the steps of `spec` in order, with their buffers placed."""
    steps = _science(spec) + (_variance(spec) if spec.variance and spec.own_variance else [])
    steps += _errors(spec) if spec.variance and spec.errors else []
    if spec.score:
        reads = ["sn", *(["sr"] if spec.split else []), *(["v"] if spec.variance else [])]
        reads += ["e"] if spec.variance and spec.errors else []
        steps.append(Step("output", "score", tuple(reads), phase=OUTPUT))
    if spec.inputs_first:
        steps.sort(key=lambda step: step.phase)
    return Program(spec, tuple(steps), place(steps))


def _forward(name: str) -> Step:
    return Step("forward", name, (name,), (name.upper(),))


def _inverse(spectrum: str, frame: str) -> Step:
    return Step("inverse", frame, (spectrum,), (frame,), ruins=(spectrum,))


def _science(spec: Spec) -> list[Step]:
    """Return the steps from the images to D, S_N and S_R."""
    steps = [Step("frame", "n", (), ("n",), phase=INPUT), _forward("n")]
    if "R" in spec.own:
        steps += [Step("frame", "r", (), ("r",), phase=INPUT), _forward("r")]
    steps += [Step("spectrum", name, (), (name,)) for name in ("Pn", "Pr", "Wn", "Wr") if name in spec.own]
    n, r = "N", "R"
    if "Wn" in spec.colour:
        n = "XN"
        steps.append(Step("whiten", "N", ("N", "Wn"), ("XN",), {"XN": "N"}))
    if "Wr" in spec.colour and "R" in spec.own:
        r = "XR"
        steps.append(Step("whiten", "R", ("R", "Wr"), ("XR",), {"XR": "R"}))
    writes = ["D"] if spec.difference else []
    writes += (["Sn", "Sr"] if spec.split else ["Sn"]) if spec.score else []
    over = dict(zip(writes, [n, r] if "R" in spec.own else [n], strict=False))
    steps.append(Step("combine", "", (n, r, "Pn", "Pr"), tuple(writes), over))
    if spec.difference:
        steps += [_inverse("D", "d"), Step("output", "difference", ("d",), phase=OUTPUT)]
    steps += [_inverse("Sn", "sn")] if spec.score else []
    steps += [_inverse("Sr", "sr")] if spec.score and spec.split else []
    if "k" in spec.own and spec.variance:
        steps.append(Step("kernels", ""))
    return steps


def _variance(spec: Spec) -> list[Step]:
    """Return the steps to V(S) of each image."""
    steps: list[Step] = []
    for name, kernel in (("vn", "kn"), ("vr", "kr")):
        if name.upper() in spec.own:
            steps += [Step("variance", name, (), (name,), phase=INPUT), _forward(name)]
        if "k" in spec.own:
            steps += [Step("place", kernel, (), (kernel,)), _forward(kernel)]
    return [*steps, _weigh(spec, "V", ("VN", "KN", "VR", "KR")), _inverse("V", "v")]


def _errors(spec: Spec) -> list[Step]:
    """Return the steps to what the errors of filled pixels can bring into S."""
    steps = [Step("kernels", "act")] if "k" in spec.own and spec.colour else []
    reads: list[str] = []
    for name, kernel in (("en", "an"), ("er", "ar")):
        if name.upper() not in spec.errors:
            continue
        if name == "en" or "R" in spec.own:
            steps += [Step("error", name, (), (name,), phase=INPUT), _forward(name)]
        if "k" in spec.own:
            steps += [Step("place", kernel, (), (kernel,)), _forward(kernel)]
        reads += [name.upper(), kernel.upper()]
    return [*steps, _weigh(spec, "E", tuple(reads)), _inverse("E", "e")]


def _weigh(spec: Spec, out: str, reads: tuple[str, ...]) -> Step:
    own = set(spec.own) | ({"KN", "KR", "AN", "AR"} if "k" in spec.own else set()) | {"EN"}
    own |= {"ER"} if "R" in spec.own else set()
    first = next((name for name in reads if name in own), None)
    return Step("weigh", out, reads, (out,), {out: first} if first else {})


def place(steps: Sequence[Step]) -> dict[str, int]:
    """Return the slot of every buffer written: the lowest that is free, or an input's where it may lie over it."""
    last = {name: i for i, step in enumerate(steps) for name in (*step.reads, *step.writes)}
    slots: dict[str, int] = {}
    taken: set[int] = set()
    for i, step in enumerate(steps):
        moved: set[str] = set()
        for name in step.writes:
            under = step.over.get(name)
            if under in slots and last[under] == i:
                slots[name] = slots[under]
                moved.add(under)
            else:
                slots[name] = next(k for k in range(len(taken) + 1) if k not in taken)
                taken.add(slots[name])
        dying = {name for name in (*step.reads, *step.writes) if name in slots and last[name] == i} - moved
        taken -= {slots[name] for name in dying}
    return slots


def check(program: Program) -> list[str]:
    """Play the program through and return what is wrong: a buffer read after its slot was given away, or ruined."""
    problems: list[str] = []
    holder: dict[int, str] = {}
    own = {name for step in program.steps for name in step.writes}
    for i, step in enumerate(program.steps):
        where = f"step {i}, {step.kind} {step.about}"
        lost = [name for name in step.reads if name in own and holder.get(program.slots[name]) != name]
        problems += [f"{where}: {name} is not in slot {program.slots[name]}" for name in lost]
        for name in step.ruins:
            if name in own:
                holder[program.slots[name]] = "(ruined)"
        for name in step.writes:
            slot = program.slots[name]
            beneath = [r for r in step.reads if r in own and program.slots[r] == slot]
            if any(step.over.get(name) != r for r in beneath):
                problems.append(f"{where}: {name} is written over {beneath[0]} while it is read")
            holder[slot] = name
    return problems


# ---- what it costs ---------------------------------------------------------------------------------------------------
def bytes_per_image(program: Program) -> int:
    """Return the device memory of the slots, per image of the batch."""
    py, px = program.spec.padded
    return program.slot_count * 8 * py * (px // 2 + 1)


def traffic(program: Program) -> dict[str, float]:
    """Return the bytes each step moves through memory per image, each input read and each output written once.

    A two-dimensional transform is two passes over the frame, along rows and along columns, each read and written. What
    is shared by a batch is read once for all its images. Caches are left out: this is the floor for large batches.
    """
    spec = program.spec
    (ny, nx), (py, px) = spec.shape, spec.padded
    image, frame, half = 4 * ny * nx, 4 * py * px, 8 * py * (px // 2 + 1)
    flags = ny * nx if spec.flagged else 0
    own = {name for step in program.steps for name in step.writes}
    size = {name: float(frame if name.islower() else half) for name in program.slots}

    def cost(step: Step) -> float:
        if step.kind in ("forward", "inverse"):
            return frame + 3 * half
        total = sum(size[name] for name in step.writes)
        # half spectra are all that steps share
        total += sum(size[name] if name in own else half / spec.batch for name in step.reads)
        if step.kind == "frame" or (step.kind == "variance" and step.about.upper() in spec.maps):
            total += image
        if step.phase == INPUT:
            total += flags
        if step.kind == "output":
            written = 1 if step.about == "difference" else spec.outputs - spec.difference
            total += written * image + flags - sum(frame - image for name in step.reads if name in own)
        return total

    return {f"{i} {step.kind} {step.about}".rstrip(): cost(step) for i, step in enumerate(program.steps)}
