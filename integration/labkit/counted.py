"""A machine whose clock counts its instructions (QEMU's icount): the lab's image and kernel, one
processor, and no time that passes while it waits. What is timed there does not depend on what else
the computer does; it is no measure of caches and memory.

    python3 -m labkit.counted FILE... -- COMMAND...    files are put beside the command
"""

import pathlib
import subprocess
import sys
import tempfile

from labkit import image, requirements
from labkit.console import LabError

MEMORY_MIB = 3072
PATIENCE_S = 3600
MODULES = "vxlan bridge veth nf_tables nft_meta_bridge nf_conntrack_bridge nft_ct nft_fib_inet nft_limit nft_connlimit nft_log nfnetlink_log"
DONE = "counted: done"

# Process 1. Nothing is written but to memory: the disk is a layer that is thrown away.
_START = """\
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
for at in /run /tmp; do mount -t tmpfs tmp $at; done
exec > /dev/ttyS0 2>&1
for module in {modules}; do modprobe $module; done
ip link set lo up
cd /tmp && tar -x -f /dev/vda
({command}) < /dev/null && echo '{done}'
echo o > /proc/sysrq-trigger
sleep 60
"""


def run(files, words):
    """Runs the command there; its lines, as they come. Fails if it does."""
    requirements.for_machine()
    made = image.ensure()
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        start = work / "start"
        start.write_text(_START.format(modules=MODULES, command=" ".join(words), done=DONE))
        archive = work / "files.tar"
        names = [argument for file in map(pathlib.Path, files) for argument in ("-C", str(file.parent), file.name)]
        _checked(["tar", "-c", "-h", "-f", str(archive), "-C", directory, "start", *names])
        archive.write_bytes(archive.read_bytes() + bytes(-archive.stat().st_size % 512))
        layer = work / "layer.qcow2"
        _checked(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(made.disk), str(layer)])
        first = (
            "mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; "
            "/usr/sbin/modprobe virtio_pci; /usr/sbin/modprobe virtio_blk; until [ -b /dev/vda ]; do sleep 0.1; done; "
            "tar -x -O -f /dev/vda start > /tmp/start; exec sh /tmp/start"
        )
        command = [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=off",
            "-cpu", "max,la57=off", "-smp", "1", "-m", str(MEMORY_MIB), "-kernel", str(made.kernel),
            "-append", "console=ttyS0 root=/dev/nvme0n1 rootwait rw panic=-1 quiet mitigations=off net.ifnames=0 nowatchdog "
            f'init=/bin/sh -- -c "{first}"',
            # One disk of each kind: two of NVMe are named in the order in which they answer, even of one controller.
            "-drive", f"id=system,file={layer},if=none,format=qcow2,cache=unsafe", "-device", "nvme,drive=system,serial=system",
            "-drive", f"id=files,file={archive},if=virtio,format=raw,readonly=on",
            "-nic", "none", "-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
        ]
        done = False
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as machine:
            for line in machine.stdout:
                line = line.rstrip("\r\n")
                if line == DONE:
                    done = True
                elif not done:
                    yield line
        if not done:
            raise LabError("the machine ended before the command did, or the command failed; what it said is above")


def _checked(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main():
    words = sys.argv[1:]
    at = words.index("--")
    try:
        for line in run(words[:at], words[at + 1:]):
            print(line, flush=True)
    except LabError as error:
        sys.exit(f"counted: {error}")


if __name__ == "__main__":
    main()
