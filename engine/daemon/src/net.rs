//! Sockets: two multicast lines, the request server, streams.

use crate::limits::RECEIVE_BUFFER;
use nix::sys::socket::{
    AddressFamily, IpMembershipRequest, SockFlag, SockType, SockaddrIn, TimestampingFlag, bind,
    connect, setsockopt, socket, sockopt,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use thiserror::Error;

/// Why a socket can't be had.
#[derive(Debug, Error)]
#[error("{action} {address}")]
pub struct NetError {
    action: &'static str,
    address: SocketAddrV4,
    source: nix::Error,
}

fn step(action: &'static str, address: SocketAddrV4) -> impl Fn(nix::Error) -> NetError {
    move |source| NetError { action, address, source }
}

fn udp(address: SocketAddrV4) -> Result<OwnedFd, NetError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)
        .map_err(step("socket for", address))?;
    // The kernel caps it at net.core.rmem_max; preflight compares what was granted.
    let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
    // A card stamps if its driver was told to (SIOCSHWTSTAMP, a matter of the host); the kernel
    // always does.
    let stamps = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RAW_HARDWARE;
    setsockopt(&fd, sockopt::Timestamping, &stamps)
        .map_err(step("ask for time stamps of", address))?;
    Ok(fd)
}

/// A socket that receives one multicast line on one interface.
///
/// # Errors
/// [`NetError`] names the step and the group.
pub fn line(group: SocketAddrV4, interface: Ipv4Addr) -> Result<OwnedFd, NetError> {
    let fd = udp(group)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(step("share port of", group))?;
    // Bound to the group, not to any address: another group on the same port is not ours.
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(group))
        .map_err(step("bind", group))?;
    let request = IpMembershipRequest::new(*group.ip(), Some(interface));
    setsockopt(&fd, sockopt::IpAddMembership, &request).map_err(step("join", group))?;
    Ok(fd)
}

/// A socket to the request server.
///
/// # Errors
/// [`NetError`] names the step and the server.
pub fn requests(server: SocketAddrV4) -> Result<OwnedFd, NetError> {
    let fd = udp(server)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(server))
        .map_err(step("connect", server))?;
    Ok(fd)
}

/// A socket for a stream to a server; the ring connects it.
///
/// # Errors
/// [`NetError`] names the server.
pub fn stream(server: SocketAddrV4) -> Result<OwnedFd, NetError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)
        .map_err(step("socket for", server))?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true).map_err(step("set TCP_NODELAY for", server))?;
    Ok(fd)
}
