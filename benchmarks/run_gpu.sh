#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go of well under ten minutes: tests, sanitizers, benchmarks, profile.
#
#   bash benchmarks/run_gpu.sh            results in benchmarks/results, or in $OUT where that is set
#   PYTHON=python3.12 bash benchmarks/run_gpu.sh
#
# Needs numpy, scipy, cupy and pytest; uses numba, a C++ compiler, compute-sanitizer and ncu where they are. A stage
# that fails or is cut off by its limit does not stop the next; the exit code is the number of stages that failed.
# Clocks, power limits and the device's other settings are left as they are.
set -u
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-benchmarks/results}"
mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
DEVICE="$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')"
NAME="${DEVICE:-no-gpu}-$(date -u +%Y-%m-%d)"
SUMMARY="$OUT/summary.txt"
failed=0
: >"$SUMMARY"

say() { echo "$*" | tee -a "$SUMMARY"; }

# stage NAME SECONDS LOG COMMAND...: run, log, note how it ended
stage() {
  local name="$1" limit="$2" log="$3"
  shift 3
  local start=$SECONDS
  echo "== $name: $*" >>"$OUT/$log"
  timeout --kill-after=10 "$limit" "$@" >>"$OUT/$log" 2>&1
  local code=$?
  local took=$((SECONDS - start))
  case $code in
    0) say "ok      $name (${took} s)" ;;
    124 | 137) say "CUT OFF $name after ${limit} s, see $log" && failed=$((failed + 1)) ;;
    *) say "FAILED  $name with code $code (${took} s), see $log" && failed=$((failed + 1)) ;;
  esac
  return $code
}

# stage_with TOOL ...: as stage, if the tool is there
stage_with() {
  local tool="$1"
  shift
  if command -v "$tool" >/dev/null; then stage "$@"; else say "absent  $1: $tool is not on PATH"; fi
}

rm -f "$OUT"/{machine.txt,tests.log,sanitizer.log,benchmark.log,profile.txt}

stage_with nvidia-smi "machine" 20 machine.txt nvidia-smi
stage "backends" 60 machine.txt "$PYTHON" -c '
import astrid_gpu as ag
for name, status in ag.backends.backend_status().items():
    print(name, status.available, status.reason, dict(status.details))
raise SystemExit(not ag.backends.backend_status()["cupy"].available)
'
have_gpu=$?
tail -n 3 "$OUT/machine.txt"

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
stage "tests" 200 tests.log "$PYTHON" -m pytest "${files[@]}" -k "cupy or cuda_device" -q -p no:cacheprovider \
  -o filterwarnings=default --maxfail=40 --durations=10
grep -vE "^SKIPPED" "$OUT/tests.log" | tail -n 30

if [ "$have_gpu" -eq 0 ]; then
  stage "benchmark" 120 benchmark.log "$PYTHON" -m benchmarks.device --backend cupy --images 8 --side 2048 \
    --seconds 0.3 --json "$OUT/$NAME.json"
  cat "$OUT/benchmark.log"
  # memcheck: accesses beyond arrays and misaligned ones; racecheck: shared memory; both on small calls of every kernel
  for tool in memcheck racecheck; do
    stage_with compute-sanitizer "$tool" 60 sanitizer.log compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$PYTHON" -m tests.cuda_host.on_device
  done
  tail -n 15 "$OUT/sanitizer.log" 2>/dev/null
  # The two that move most bytes: achieved bandwidth, occupancy, what the warps wait for
  for name in zogy_spectra zogy_finish; do
    stage_with ncu "profile of $name" 40 profile.txt ncu --clock-control none --set basic \
      --section MemoryWorkloadAnalysis --section WarpStateStats --section Occupancy --kernel-name "$name" \
      --launch-skip 1 --launch-count 1 "$PYTHON" -m benchmarks.device --backend cupy --once "$name"
  done
else
  say "no device: benchmark, sanitizers and profile were not run"
fi

echo
cat "$SUMMARY"
exit "$failed"
