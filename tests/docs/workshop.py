"""A copy of this checkout in a folder of its own, in which the commands of pages are run as a reader would run them, but quickly.

`.venv/bin/python` there is a program that adds quick settings (fewer epochs, fewer trials), runs what was run before only once, and leaves
the service running beside what follows it. What it adds is in `QUICK`, and nothing else is different from what a reader does.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).with_name("quick_python.py")


def make_workshop(folder: Path) -> dict[str, str]:
    """Copy what git has, and make `.venv` and what readers have, unless it is there. Returns the environment of commands."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("benchmarks/results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    home = folder.with_name("home")  # a reader's own: caches and Ray's token stay out of this one's
    if not home.exists():
        _make_venv(folder)
        _make_images(folder)
        (home / ".ray").mkdir(parents=True)
        token = home / ".ray" / "auth_token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "OMP_NUM_THREADS") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "PATH": f"{folder}/.venv/bin:{kept['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_AUTH_MODE": "token",
        "PIXELMODELS_DOCS": str(folder.with_name("state")),  # where the quick python keeps what it knows
    }


def _make_venv(folder: Path) -> None:
    real, made = Path(sys.executable).parent, folder / ".venv"
    (made / "bin").mkdir(parents=True)
    for file in real.iterdir():
        if not file.name.startswith(("python", "activate", "ray", "pip")):
            (made / "bin" / file.name).symlink_to(file)
    python = f'#!/bin/sh\nexec "{sys.executable}" -I "{SHIM}" "{sys.executable}" "$@"\n'
    for name in ("python", "python3"):
        _program(made / "bin" / name, python)
    _program(made / "bin" / "ray", f'#!/bin/sh\nexec "{sys.executable}" -m ray.scripts.scripts "$@"\n')
    (made / "bin" / "activate").write_text(f'export PATH="{made}/bin:$PATH" RAY_AUTH_MODE=token\n')
    told = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "stamp"],
        cwd=folder,
        input="stamp:\n\t@echo $(STAMP)\n",
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / told.stdout.strip()).touch()  # so that `make` has nothing to install


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _make_images(folder: Path) -> None:
    """What readers have: `my_images/` (64 pictures of two classes), `lake/birds/` (Parquet), `shards/`, `grey_photo.png`, `half.png`."""
    import io
    import tarfile

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    files: list[tuple[str, bytes]] = []
    for number in range(64):
        kind = ("cat", "dog")[number % 2]
        small_HWC = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(small_HWC).resize((44, 40) if kind == "cat" else (40, 44), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        files.append((f"{kind}/{number:03d}.png", stream.getvalue()))
    for name, content in files:
        (folder / "my_images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "my_images" / name).write_bytes(content)
    Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / "grey_photo.png")
    half_HW = np.zeros((8, 8), np.uint8)
    half_HW[:4] = 255
    Image.fromarray(half_HW).save(folder / "half.png")
    (folder / "lake" / "birds").mkdir(parents=True)
    table = pa.table({"photo": [content for _, content in files], "species": [name.partition("/")[0] for name, _ in files]})
    pq.write_table(table, folder / "lake" / "birds" / "birds.parquet")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "train-000000.tar", "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(f"{Path(name).stem}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
