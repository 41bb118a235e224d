"""Whether /dev/kvm is of use: a virtual processor runs one instruction, and its registers can be restored.

Some machines have the device and fail at one or the other. The structures and numbers are those of
https://www.kernel.org/doc/html/latest/virt/kvm/api.html, for x86-64.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct

_CREATE_VM, _GET_MSR_INDEX_LIST, _GET_VCPU_MMAP_SIZE, _CREATE_VCPU = 0xAE01, 0xC004AE02, 0xAE04, 0xAE41
_SET_USER_MEMORY_REGION, _RUN, _SET_REGS = 0x4020AE46, 0xAE80, 0x4090AE82
_GET_SREGS, _SET_SREGS, _GET_MSRS, _SET_MSRS = 0x8138AE83, 0x4138AE84, 0xC008AE88, 0x4008AE89
_EXIT_HLT = 5
_HLT = b"\xf4"
_AT = 0x1000  # where the instruction is, in the guest
_REGISTERS = 1000  # more than there are
_PATIENCE_S = 5


def verdict():
    """"usable", or why it is not."""
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_PATIENCE_S)
    try:
        with _opened("/dev/kvm") as kvm:
            return _try(kvm) or "usable"
    except FileNotFoundError:
        return "none"
    except TimeoutError:
        return "not usable (a guest hangs)"
    except OSError as error:
        return f"not usable ({errno.errorcode.get(error.errno, error.errno)})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _give_up(*_):
    raise TimeoutError


class _opened:
    def __init__(self, path=None, number=None):
        self.number = os.open(path, os.O_RDWR | os.O_CLOEXEC) if path else number

    def __enter__(self):
        return self.number

    def __exit__(self, *_):
        os.close(self.number)


def _try(kvm):
    """What does not work, or None."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[0:1] = _HLT
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with _opened(number=fcntl.ioctl(kvm, _CREATE_VM, 0)) as machine:
        fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, _AT, mmap.PAGESIZE, address))
        with _opened(number=fcntl.ioctl(machine, _CREATE_VCPU, 0)) as processor:
            run = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
            special = bytearray(312)
            fcntl.ioctl(processor, _GET_SREGS, special, True)
            special[0:8] = bytes(8)  # the code segment's base
            special[12:14] = bytes(2)  # and its selector
            fcntl.ioctl(processor, _SET_SREGS, bytes(special))
            registers = bytearray(144)
            struct.pack_into("=QQ", registers, 128, _AT, 2)  # rip, rflags
            fcntl.ioctl(processor, _SET_REGS, bytes(registers))
            fcntl.ioctl(processor, _RUN, 0)
            reason = struct.unpack_from("=I", run, 8)[0]
            if reason != _EXIT_HLT:
                return f"not usable (a guest's first instruction ends with {reason})"
            for number in _model_specific(kvm):
                register = bytearray(struct.pack("=IIIIQ", 1, 0, number, 0, 0))
                if fcntl.ioctl(processor, _GET_MSRS, register, True) == 1 and fcntl.ioctl(processor, _SET_MSRS, register, True) != 1:
                    return f"not usable (register {number:#x} of a guest cannot be set)"
    return None


def _model_specific(kvm):
    numbers = bytearray(4 + 4 * _REGISTERS)
    struct.pack_into("=I", numbers, 0, _REGISTERS)
    fcntl.ioctl(kvm, _GET_MSR_INDEX_LIST, numbers, True)
    count = struct.unpack_from("=I", numbers)[0]
    return struct.unpack_from(f"={count}I", numbers, 4)
