"""What a virtual machine of the tests boots: `python3 -m labkit.virtual DIRECTORY` writes `vmlinuz` and `initrd` there.

Kernel, modules and busybox are those of the lab's image, Debian's own; the rest is `guest/init`.
"""

import gzip
import lzma
import pathlib
import stat
import sys

from labkit import image, requirements
from labkit.console import LabError
from labkit.settings import KIT

# In the order in which they are loaded. Buses, consoles and packet sockets are built in.
_MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
_DIRECTORIES = ("bin", "dev", "proc", "sys", "modules", "srv")


def make(directory, made=None):
    """Writes both files, from that image or the lab's."""
    made = made or image.ensure()
    kernels = sorted((made.root / "usr/lib/modules").iterdir())
    if len(kernels) != 1:
        raise LabError(f"the image has modules of {len(kernels)} kernels")
    files = {"init": (KIT / "guest/init").read_bytes(), "bin/busybox": (made.root / "usr/bin/busybox").read_bytes()}
    for number, module in enumerate(_MODULES):
        packed = (kernels[0] / f"kernel/{module}.ko.xz").read_bytes()
        files[f"modules/{number}.ko"] = lzma.decompress(packed)
    (directory / "vmlinuz").write_bytes(made.kernel.read_bytes())
    (directory / "initrd").write_bytes(gzip.compress(archive(_DIRECTORIES, files), 1))


def archive(directories, files):
    """A cpio archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst): all its files
    may be executed."""
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    whole = b""
    for number, (name, mode, content) in enumerate(entries, 1):
        #         inode   mode  uid gid links time size          device, special device  length of the name, checksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        whole += _padded(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0") + _padded(content)
    return whole


def _padded(part):
    return part + bytes(-len(part) % 4)


if __name__ == "__main__":
    requirements.for_machine()
    make(pathlib.Path(sys.argv[1]))
