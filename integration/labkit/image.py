"""The lab image: one Debian root file system, for the machine and every host in it.

Cached by its platform and a hash of its recipe (image/, this file, the platform's release and packages). An image is either complete or
absent: it is built beside its final name and renamed.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess

from labkit import platforms, requirements
from labkit.console import LabError, step
from labkit.settings import KIT, cache_directory

RECIPE = KIT / "image"
DISK_SIZE = "3G"
KEPT_IMAGES = 4


def recipe_hash(platform):
    digest = hashlib.sha256(repr((platform.suite, platform.older_suite, platform.manager.packages)).encode())
    files = [KIT / "image.py"] + [path for path in RECIPE.rglob("*") if path.is_file()]
    for path in sorted(files):
        executable = os.access(path, os.X_OK)
        digest.update(f"{path.relative_to(KIT)} {executable}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class Image:
    """A complete image in the cache."""

    def __init__(self, directory):
        self.directory = directory
        self.disk = directory / "disk.raw"
        self.kernel = directory / "vmlinuz"
        self.root = directory / "root"  # the same tree, for hosts without the machine


def directory(platform=platforms.DEFAULT):
    """Where the image of the current recipe is, or will be."""
    return cache_directory() / f"image-{platform.name}-{recipe_hash(platform)}"


def ensure(platform=platforms.DEFAULT):
    """The image of the current recipe, built if the cache lacks it."""
    place = directory(platform)
    if not place.is_dir():
        requirements.for_image_build()
        _build(place, platform)
        _forget_old(place)
    os.utime(place)
    return Image(place)


def _packages(platform):
    lines = (RECIPE / "packages").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")] + list(platform.manager.packages)


def _build(directory, platform):
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.with_name(directory.name + ".new")
    _remove(work)
    work.mkdir()
    log_path = directory.parent / "image-build.log"
    root = work / "root"
    with step(f"building the image of {platform.name} (log: {log_path})") as remark, open(log_path, "w") as log:
        _logged(log, log_path, _mmdebstrap(root, platform))
        shutil.copytree(RECIPE / "overlay", root, dirs_exist_ok=True, symlinks=True)
        _logged(log, log_path, ["sh", str(RECIPE / "customise"), str(root)])
        kernels = sorted((root / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise LabError(f"the image has no kernel in /boot (log: {log_path})")
        shutil.copy(kernels[-1], work / "vmlinuz")
        shutil.rmtree(root / "boot")
        (root / "boot").mkdir()
        # No journal: the file is a cache, written again rather than repaired.
        _logged(log, log_path, [
            "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "lab", "-d", str(root),
            str(work / "disk.raw"), DISK_SIZE,
        ])
        blocks = (work / "disk.raw").stat().st_blocks
        remark(f"{blocks * 512 >> 20} MiB on disk")
    work.rename(directory)


def _mmdebstrap(root, platform):
    no_documents = [
        f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "info", "locale")
    ]
    mirror = requirements.debian_mirror()
    older = [f"deb {mirror} {platform.older_suite} main"] if platform.older_suite else []
    # The lists of a release that is in the making are valid for a week, and a mirror may stand still for longer.
    # Who has signed them is verified all the same.
    still = ["--aptopt=Acquire::Check-Valid-Until \"false\""] if platform.older_suite else []
    return [
        # what it mounts goes with it, however it ends
        "unshare", "--mount", "nice", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory",
        *no_documents,
        # An initial RAM disk is not needed: what mounts the root is built into the kernel.
        "--essential-hook=mkdir -p $1/etc/initramfs-tools && "
        "echo update_initramfs=no > $1/etc/initramfs-tools/update-initramfs.conf",
        "--dpkgopt=force-confold",
        *still,
        f"--include={','.join(_packages(platform))}",
        platform.suite, str(root), f"deb {mirror} {platform.suite} main", *older,
    ]


def _logged(log, log_path, command):
    print("+", *command, file=log, flush=True)
    environment = dict(os.environ, LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive")
    done = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode != 0:
        last = pathlib.Path(log_path).read_text(errors="replace").splitlines()[-15:]
        raise LabError(f"{command[0]} failed (log: {log_path}):\n" + "\n".join(last))


def _remove(directory):
    if directory.exists():
        shutil.rmtree(directory)


def _forget_old(current):
    """Keeps the newest few images; a machine still running keeps its file open anyway."""
    images = [path for path in current.parent.glob("image-*") if path.is_dir() and path != current]
    images.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in images[KEPT_IMAGES - 1:]:
        _remove(path)
