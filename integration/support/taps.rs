//! Taps and tuns, as whoever is behind them has them: QEMU, a VPN.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Opens a tap or tun (`IFF_TAP`, `IFF_TUN` and the like in `flags`, of include/uapi/linux/if_tun.h), and makes it if there
/// is none of this name. While it is open the device has a carrier; what is written there comes out of it.
pub fn open(name: &str, flags: libc::c_int) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("there is /dev/net/tun");
    // SAFETY: the request reads and writes a `struct ifreq`, which this is.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (flags | libc::IFF_NO_PI) as i16;
        let done = libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request);
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
    file
}
