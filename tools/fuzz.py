"""Coverage-guided fuzzing of every reader of files, by atheris (`pip install atheris`; not on Windows).

    python tools/fuzz.py                          # the targets there are
    python tools/fuzz.py npz --runs 100000        # one of them
    python tools/fuzz.py all --seconds 60         # each of them for a minute

What ends in anything but a result or a sentence, takes 5 s or a gibibyte is written to
`tests/corpus/TARGET/`, where the tests find it from then on. Inputs that reach new code are kept under
`--keep`, from one call to the next.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "corpus"
READERS = ROOT / "tests" / "trust" / "targets.py"
SECONDS, MEGABYTES = 5, 1024


def fuzz(name: str, arguments: argparse.Namespace) -> None:
    """Fuzz one target, until it is done or something is found; ends the process."""
    import atheris

    with atheris.instrument_imports(
        include=["condvae", "zipfile", "tarfile", "tomllib", "PIL", "numpy.lib"]
    ):
        readers: dict[str, Any] = runpy.run_path(str(READERS))
    kept = arguments.keep / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(readers["seeds"](name)):
        (kept / f"seed-{number}").write_bytes(content)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    options = [f"-timeout={SECONDS}", f"-malloc_limit_mb={MEGABYTES}", f"-rss_limit_mb={2 * MEGABYTES}"]
    options += [
        f"-artifact_prefix={CORPUS / name}/",
        f"-max_len={arguments.length}",
        "-print_final_stats=1",
    ]
    options += [f"-runs={arguments.runs}"] if arguments.runs else []
    options += [f"-max_total_time={arguments.seconds}"] if arguments.seconds else []
    atheris.Setup([sys.argv[0], *options, str(kept)], lambda content: readers["attempt"](name, content))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--runs", type=int, default=0, help="executions, at most")
    parser.add_argument("--seconds", type=int, default=0, help="of fuzzing, at most")
    parser.add_argument("--length", type=int, default=4096, help="bytes of an input, at most")
    parser.add_argument("--keep", type=Path, default=ROOT / ".fuzz", help="where inputs are kept")
    arguments = parser.parse_args()
    if arguments.target and arguments.target != "all":
        fuzz(arguments.target, arguments)
    names = list(runpy.run_path(str(READERS))["TARGETS"])
    if not arguments.target:
        print("\n".join(names))
        return
    found = []
    for name in names:  # a process each: libFuzzer ends its own
        done = subprocess.run([sys.executable, __file__, name, *sys.argv[2:]], check=False)
        found += [name] if done.returncode else []
    raise SystemExit(f"found something in: {', '.join(found)}" if found else 0)


if __name__ == "__main__":
    main()
