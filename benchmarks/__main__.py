"""`python -m benchmarks`: measure the node beside its peers, print the table, keep the samples."""

import argparse
import multiprocessing
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.cases import CASES
from benchmarks.errors import BenchmarkError
from benchmarks.report import Fact, Report
from benchmarks.targets import TARGETS, Target, spread, usual_targets

RESULTS = Path(__file__).parent / "results"
SLOT = 2.0  # seconds of sending for one sample; the start of storescu is about 1 % of it
QUICK_SLOT = 0.7
STUDIES, QUICK_STUDIES = 100_000, 10_000
PEER_STUDIES, QUICK_PEER_STUDIES = 5_000, 1_000  # less work for a peer that is slow to fill: to its advantage


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the targets are ended too
    work = Path(tempfile.mkdtemp(prefix="pacsnode-bench-", dir=options.work))
    spread(work)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    try:
        targets = [TARGETS[name](work) for name in options.targets]
        facts = _facts(targets, work)
        with options.out.open("a") as lines, ProcessPoolExecutor(1, spawn) as loader:
            report = Report(options.targets, facts, lines)
            loader.submit(os.getpid).result()  # its interpreter is up before anything is timed
            _run(_bench(options, targets, report, loader), options.cases)
            report.finish()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(report.table())
    print(_footer(facts, targets))
    say(f"samples: {options.out}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", type=_names(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--targets", type=_names(TARGETS), default=usual_targets(), help=f"of {', '.join(TARGETS)}"
    )
    parser.add_argument("--quick", action="store_true", help="one short repetition: a look, not a result")
    parser.add_argument("--repetitions", type=int, help="samples a figure (3; 1 with --quick)")
    parser.add_argument("--studies", type=int, help=f"studies to query in pacsnode ({STUDIES})")
    parser.add_argument("--peer-studies", type=int, help=f"studies to query in a peer ({PEER_STUDIES})")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for other programs (0)")
    parser.add_argument("--work", type=Path, help="where the servers keep their data (temporary directory)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{datetime.now():%Y%m%d-%H%M%S}.jsonl")
    return parser.parse_args(arguments)


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name}: not one of {', '.join(known)}")
        return names

    return parse


def _bench(
    options: argparse.Namespace, targets: Sequence[Target], report: Report, loader: ProcessPoolExecutor
) -> Bench:
    quick = options.quick
    return Bench(
        targets,
        report,
        loader,
        repetitions=options.repetitions or (1 if quick else 3),
        slot=QUICK_SLOT if quick else SLOT,
        studies=options.studies or (QUICK_STUDIES if quick else STUDIES),
        peer_studies=options.peer_studies or (QUICK_PEER_STUDIES if quick else PEER_STUDIES),
        patience=options.patience,
    )


def _run(bench: Bench, cases: Sequence[str]) -> None:
    for name in cases:
        started = time.monotonic()
        say(f"{name}: {(CASES[name].__doc__ or '').strip()}")
        CASES[name](bench)
        say(f"{name}: {time.monotonic() - started:.0f} s")


def _facts(targets: Sequence[Target], work: Path) -> dict[str, Fact | list[str]]:
    """What a reader needs to know before comparing this run with another machine's."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "time": datetime.now().isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fdatasync_ms": round(_fdatasync_cost(work), 3),
        "filesystem": _output(["stat", "--file-system", "--format", "%T", str(work)]),
        "storescu_start_ms": round(_storescu_start(), 1),
        "load_before": os.getloadavg()[0],
        "versions": [f"{target.name}: {_version(target)}" for target in targets],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fdatasync_cost(folder: Path, times: int = 100) -> float:
    """Median milliseconds of writing 9 KB to a new file and syncing it, where the servers keep their data."""
    taken = []
    for number in range(times):
        with open(folder / f"sync-{number}", "wb", buffering=0) as file:
            file.write(bytes(9000))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def _storescu_start(times: int = 5) -> float:
    """Median milliseconds that a storescu process costs before it does anything."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        try:
            subprocess.run(["storescu", "--version"], capture_output=True, timeout=20, check=True)
        except OSError:
            raise SystemExit("storescu is not installed (Debian package dcmtk)") from None
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()


def _version(target: Target) -> str:
    try:
        return target.version()
    except BenchmarkError as error:
        return str(error)


def _footer(facts: dict[str, Fact | list[str]], targets: Sequence[Target]) -> str:
    lines = ["", "Done when a C-STORE is answered:"]
    lines += [f"- {target.name}: {target.durability}" for target in targets]
    lines += ["", "Machine and command:"]
    lines += [
        f"- {name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in facts.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
