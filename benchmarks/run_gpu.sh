#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go of well under ten minutes: tests, sanitizers, benchmarks, profiles.
#
#   bash benchmarks/run_gpu.sh            results in benchmarks/results, or in $OUT where that is set
#   PYTHON=python3.12 bash benchmarks/run_gpu.sh
#   DRY_RUN=1 bash benchmarks/run_gpu.sh  the same steps without a device, on the CPU emulator with tiny frames
#
# Needs numpy, scipy, cupy and pytest; uses numba, a C++ compiler, compute-sanitizer and ncu where they are. A stage
# that fails or is cut off by its limit does not stop the next, and no stage starts with less time than it needs left of
# $BUDGET seconds; the exit code is the number of stages that failed. How each ended is in summary.txt and summary.json.
# Clocks, power limits and the device's other settings are left as they are.
set -u
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-benchmarks/results}"
BUDGET="${BUDGET:-540}"
DRY_RUN="${DRY_RUN:-}"
mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
DEVICE="$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')"
[ -n "$DRY_RUN" ] && DEVICE=dry-run
NAME="${DEVICE:-no-gpu}-$(date -u +%Y-%m-%d)"
SUMMARY="$OUT/summary.txt"
ENDED="$OUT/.ended"
failed=0
: >"$SUMMARY"
: >"$ENDED"

say() { echo "$*" | tee -a "$SUMMARY"; }

# stage NAME SECONDS LOG COMMAND...: run, log, note how it ended
stage() {
  local name="$1" limit="$2" log="$3" left=$((BUDGET - SECONDS)) how code=0
  shift 3
  if [ "$left" -lt 15 ]; then
    say "SKIPPED $name: ${left} s of $BUDGET s are left" && failed=$((failed + 1))
    printf '%s\tskipped\t0\n' "$name" >>"$ENDED"
    return 1
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  local start=$SECONDS
  echo "== $name: $*" >>"$OUT/$log"
  timeout --kill-after=10 "$limit" "$@" >>"$OUT/$log" 2>&1
  code=$?
  local took=$((SECONDS - start))
  case $code in
    0) how=ok && say "ok      $name (${took} s)" ;;
    124 | 137) how="cut off" && say "CUT OFF $name after ${limit} s, see $log" && failed=$((failed + 1)) ;;
    *) how="failed" && say "FAILED  $name with code $code (${took} s), see $log" && failed=$((failed + 1)) ;;
  esac
  printf '%s\t%s\t%s\n' "$name" "$how" "$took" >>"$ENDED"
  return $code
}

# stage_with TOOL ...: as stage, if the tool is there
stage_with() {
  local tool="$1"
  shift
  if command -v "$tool" >/dev/null; then stage "$@"; else
    say "absent  $1: $tool is not on PATH"
    printf '%s\tabsent\t0\n' "$1" >>"$ENDED"
  fi
}

rm -f "$OUT"/{machine.txt,tests.log,sanitizer.log,benchmark.log,profile.txt,profile.csv,summary.json}

if [ -z "$DRY_RUN" ]; then
  stage_with nvidia-smi "machine" 20 machine.txt nvidia-smi
  stage "backends" 60 machine.txt "$PYTHON" -c '
import astrid_gpu as ag
for name, status in ag.backends.backend_status().items():
    print(name, status.available, status.reason, dict(status.details))
raise SystemExit(not ag.backends.backend_status()["cupy"].available)
'
  have_gpu=$?
  tail -n 3 "$OUT/machine.txt"
else
  have_gpu=0
fi

# The tests that a device answers: the marker gpu, and the cupy parameter of the tests that run on every backend. A test
# file that imports a library which is not here is left out, with a line in the log.
mapfile -t files < <("$PYTHON" - 2>>"$OUT/tests.log" <<'END'
import ast, sys
from importlib.util import find_spec
from pathlib import Path

for path in sorted(Path("tests").rglob("test_*.py")):
    text = path.read_text()
    if not any(word in text for word in ("backend", "cupy", "mark.gpu")) or path.parts[1] == "layout":
        continue
    names = set()
    for node in ast.parse(text).body:
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module} if isinstance(node, ast.ImportFrom) and not node.level else set()
    lacking = sorted(n for n in {name.split(".")[0] for name in names} if find_spec(n) is None)
    if lacking:
        print(f"left out: {path} needs {', '.join(lacking)}", file=sys.stderr)
    else:
        print(path)
END
)

# The benchmark comes first: it is what nothing else can tell, and the tests may take long where something is wrong.
if [ "$have_gpu" -eq 0 ]; then
  how=(--backend cupy --images 16 --side 2048 --seconds 0.25)
  [ -n "$DRY_RUN" ] && how=(--dry-run)
  stage "benchmark" 170 benchmark.log "$PYTHON" -m benchmarks.device "${how[@]}" --json "$OUT/$NAME.json"
  cat "$OUT/benchmark.log"
fi
if [ -z "$DRY_RUN" ]; then
  stage "tests" 170 tests.log "$PYTHON" -m pytest "${files[@]}" -k "cupy or cuda_device" -q -p no:cacheprovider \
    -o filterwarnings=default --maxfail=40 --durations=10
  grep -vE "^SKIPPED" "$OUT/tests.log" | tail -n 30
else
  stage "tests" 60 tests.log "$PYTHON" -m pytest "${files[@]:0:4}" -k "cupy or cuda_device" -q -p no:cacheprovider \
    --collect-only
fi

if [ "$have_gpu" -eq 0 ] && [ -z "$DRY_RUN" ]; then
  # memcheck: accesses beyond arrays and misaligned ones; racecheck: shared memory; initcheck: memory nobody wrote.
  # All on small calls of every kernel.
  for tool in memcheck racecheck initcheck; do
    stage_with compute-sanitizer "$tool" 45 sanitizer.log compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$PYTHON" -m tests.cuda_host.on_device
  done
  tail -n 15 "$OUT/sanitizer.log" 2>/dev/null
  # The two that move most bytes of our own: achieved bandwidth, occupancy, what the warps wait for
  stage_with ncu "profile" 40 profile.txt ncu --clock-control none --set basic \
    --section MemoryWorkloadAnalysis --section WarpStateStats --section Occupancy \
    --kernel-name "regex:zogy_combine|zogy_output" --launch-skip 3 --launch-count 3 \
    "$PYTHON" -m benchmarks.device --backend cupy --once zogy_maps
  # Every kernel of one batch with its time and its bytes, cuFFT's own among them: in how many passes does it transform?
  stage_with ncu "kernels of a batch" 40 profile.csv ncu --clock-control none --csv --page raw \
    --metrics gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,lts__t_bytes.sum \
    --launch-count 80 "$PYTHON" -m benchmarks.device --backend cupy --once zogy_maps
elif [ "$have_gpu" -ne 0 ]; then
  say "no device: benchmark, sanitizers and profile were not run"
fi

"$PYTHON" - "$ENDED" "$OUT/summary.json" "$NAME" "$SECONDS" "$failed" <<'END'
import json, sys
from pathlib import Path

ended, target, name, seconds, failed = sys.argv[1:]
rows = [line.split("\t") for line in Path(ended).read_text().splitlines()]
stages = [{"stage": a, "ended": b, "seconds": int(c)} for a, b, c in rows]
record = {"name": name, "seconds": int(seconds), "failed": int(failed), "stages": stages}
Path(target).write_text(json.dumps(record, indent=1) + "\n")
END
rm -f "$ENDED"
echo
cat "$SUMMARY"
exit "$failed"
