"""Write docker/requirements.txt: what the image needs, version by version, and the SHA-256 of every file of it.

The versions are those of docker/constraints.txt. Needs uv, and a package index.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
EXTRAS = ("pretrained", "milvus", "postgresql", "object-store")
CPU_BUILDS = {"torch": ("2.13.0", "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b")}
"""Builds that PyPI does not have, with which the tests run: torch-2.13.0+cpu for Python 3.11 on Linux, x86_64."""
HEAD = """\
# What the image is built with, file by file; made by `make lock` from pyproject.toml and docker/constraints.txt.
"""


def main() -> None:
    """Resolve, and write what was found."""
    command = [
        "uv", "pip", "compile", "pyproject.toml", *(f"--extra={extra}" for extra in EXTRAS),
        "--constraints=docker/constraints.txt", "--generate-hashes", "--python-version=3.11",
        "--python-platform=x86_64-unknown-linux-gnu", "--no-annotate", "--no-header", "--quiet",
    ]  # fmt: skip
    command[0] = str(Path(sys.executable).with_name("uv"))
    done = subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    locked = done.stdout
    for name, (version, digest) in CPU_BUILDS.items():
        pinned = f"{name}=={version} \\\n"
        if pinned in locked:
            locked = locked.replace(pinned, f"{pinned}    --hash=sha256:{digest} \\\n")
    (FOLDER / "requirements.txt").write_text(HEAD + locked)


if __name__ == "__main__":
    main()
