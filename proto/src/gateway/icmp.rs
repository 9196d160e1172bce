//! ICMP echo for one address (RFC 792; RFC 1122, section 3.2.2.6).

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Error, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet,
    Ipv4Repr,
};

use super::{Subnet, Verdict};
use crate::wire::ethernet::MacAddr;

/// What becomes of an IPv4 packet that the station `from` sent to us.
pub(super) fn judge(
    subnet: Subnet,
    mtu: u16,
    from: MacAddr,
    payload: &[u8],
) -> Result<Verdict, Error> {
    let packet = Ipv4Packet::new_checked(payload)?;
    if packet.version() != 4 || !packet.verify_checksum() || packet.total_len() > mtu {
        return Ok(Verdict::Malformed);
    }
    if packet.dst_addr() != subnet.address() {
        return Ok(Verdict::Ignored);
    }
    if !subnet.may_be_answered(packet.src_addr()) {
        return Ok(Verdict::Malformed);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Ok(Verdict::Fragment);
    }
    if packet.next_header() != IpProtocol::Icmp {
        return Ok(Verdict::Ignored);
    }
    // `payload` begins behind the header's options, whatever they are; the answer has none.
    let echo = Icmpv4Packet::new_checked(packet.payload())?;
    if !echo.verify_checksum() {
        return Ok(Verdict::Malformed);
    }
    if echo.msg_type() != Icmpv4Message::EchoRequest || echo.msg_code() != 0 {
        return Ok(Verdict::Ignored);
    }
    let answer = reply(&packet, &echo);
    Ok(Verdict::Answer(from, EthernetProtocol::Ipv4, answer))
}

/// The answer: the same identifier, sequence number and data, back to where they came from.
fn reply(request: &Ipv4Packet<&[u8]>, echo: &Icmpv4Packet<&[u8]>) -> Vec<u8> {
    let message = Icmpv4Repr::EchoReply {
        ident: echo.echo_ident(),
        seq_no: echo.echo_seq_no(),
        data: echo.data(),
    };
    let header = Ipv4Repr {
        src_addr: request.dst_addr(),
        dst_addr: request.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: TTL,
    };
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(vec![0; header.buffer_len() + message.buffer_len()]);
    header.emit(&mut packet, &checksums);
    message.emit(
        &mut Icmpv4Packet::new_unchecked(packet.payload_mut()),
        &checksums,
    );
    packet.into_inner()
}

/// The recommended time to live (RFC 1700, "IP time to live").
const TTL: u8 = 64;
