//! The filter as instructions of the kernel's virtual machine (see linux/bpf.h).

use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use super::filter::Filter;

/// One instruction, as the kernel has it in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The maps that the program knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps {
    /// The sockets by NIC queue.
    pub(super) sockets: RawFd,
    /// How many of ours came by another NIC queue than theirs, by theirs.
    pub(super) astray: RawFd,
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
/// The context. Calls leave it alone.
const R6: u8 = 6;
/// The NIC queue by which a packet should have come. Likewise.
const R7: u8 = 7;
/// The end of the stack.
const R10: u8 = 10;

const LOAD_BYTE: u8 = 0x71;
const LOAD_HALF: u8 = 0x69;
const LOAD_WORD: u8 = 0x61;
const LOAD_IMMEDIATE: u8 = 0x18;
const STORE_WORD: u8 = 0x63;
const ATOMIC_DOUBLE: u8 = 0xdb;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT_SIGNED: u8 = 0xc7;
const TO_BIG_ENDIAN: u8 = 0xdc;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_EQUAL_REGISTER: u8 = 0x1d;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ABOVE: u8 = 0x25;
const JUMP_BELOW: u8 = 0xa5;
const JUMP_ABOVE_REGISTER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const LOOK_UP: i32 = 1;
const REDIRECT_MAP: i32 = 51;
const ADD: i32 = 0;
const PSEUDO_MAP_DESCRIPTOR: u8 = 1;

/// `enum xdp_action`.
pub(super) const DROP: i32 = 1;
pub(super) const PASS: i32 = 2;

/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

/// Offsets in a packet.
const ETHERTYPE: i16 = 12;
const VERSION_AND_LENGTH: i16 = 14;
const FRAGMENT: i16 = 20;
const PROTOCOL: i16 = 23;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const DESTINATION_PORT: i16 = 36;
/// Ethernet, IPv4 and TCP, each without options.
const LEAST_BYTES: i32 = 14 + 20 + 20;

const ETHERTYPE_IPV4: i32 = 0x0800;
const VERSION_4_LENGTH_20: i32 = 0x45;
/// "More fragments", and where in the whole this one lies.
const FRAGMENT_BITS: i32 = 0x3fff;
const PROTOCOL_TCP: i32 = 6;

/// What jumps lead to, before it is known how far that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Pass,
    PeerIsOurs,
    PortIsOurs,
    Redirect,
    Drop,
    /// So many instructions further.
    Skip(i16),
}

/// Instructions, and the jumps in them that are still open.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Target)>,
}

/// The program that does what [`Filter::verdict`] says.
pub(super) fn program_of(filter: &Filter, maps: Maps) -> Vec<Instruction> {
    let mut it = Program::default();
    if filter.peers.is_empty() {
        // The kernel refuses instructions that nothing leads to.
        it.end(PASS);
        return it.instructions;
    }
    it.want_whole_tcp_over_ipv4();
    it.want_addresses(filter);
    it.find_block(filter);
    it.land(Target::Pass);
    it.end(PASS);
    it.land(Target::PortIsOurs);
    it.give_to_socket(maps);
    assert!(it.jumps.is_empty(), "every jump leads somewhere");
    it.instructions
}

impl Program {
    fn want_whole_tcp_over_ipv4(&mut self) {
        self.put(MOVE, R6, R1, 0, 0);
        self.put(LOAD_WORD, R2, R6, DATA, 0);
        self.put(LOAD_WORD, R3, R6, DATA_END, 0);
        self.put(MOVE, R4, R2, 0, 0);
        self.put(ADD_IMMEDIATE, R4, 0, 0, LEAST_BYTES);
        self.jump(JUMP_ABOVE_REGISTER, R4, R3, 0, Target::Pass);
        self.load_half(ETHERTYPE);
        self.jump(JUMP_NOT_EQUAL, R4, 0, ETHERTYPE_IPV4, Target::Pass);
        self.put(LOAD_BYTE, R4, R2, VERSION_AND_LENGTH, 0);
        self.jump(JUMP_NOT_EQUAL, R4, 0, VERSION_4_LENGTH_20, Target::Pass);
        self.load_half(FRAGMENT);
        self.put(AND_IMMEDIATE, R4, 0, 0, FRAGMENT_BITS);
        self.jump(JUMP_NOT_EQUAL, R4, 0, 0, Target::Pass);
        self.put(LOAD_BYTE, R4, R2, PROTOCOL, 0);
        self.jump(JUMP_NOT_EQUAL, R4, 0, PROTOCOL_TCP, Target::Pass);
    }

    fn want_addresses(&mut self, filter: &Filter) {
        self.load_address(DESTINATION);
        self.jump(JUMP_EQUAL, R4, 0, immediate_of(filter.local), Target::Skip(1));
        self.jump(JUMP, 0, 0, 0, Target::Pass);
        self.load_address(SOURCE);
        for peer in &filter.peers {
            self.jump(JUMP_EQUAL, R4, 0, immediate_of(*peer), Target::PeerIsOurs);
        }
        self.jump(JUMP, 0, 0, 0, Target::Pass);
        self.land(Target::PeerIsOurs);
    }

    /// Leaves the queue of the port's block in R7.
    fn find_block(&mut self, filter: &Filter) {
        self.load_half(DESTINATION_PORT);
        for block in &filter.blocks {
            self.jump(JUMP_BELOW, R4, 0, i32::from(*block.ports.start()), Target::Skip(3));
            self.jump(JUMP_ABOVE, R4, 0, i32::from(*block.ports.end()), Target::Skip(2));
            self.put(MOVE_IMMEDIATE, R7, 0, 0, block.queue.cast_signed());
            self.jump(JUMP, 0, 0, 0, Target::PortIsOurs);
        }
    }

    fn give_to_socket(&mut self, maps: Maps) {
        self.put(LOAD_WORD, R2, R6, RX_QUEUE, 0);
        self.jump(JUMP_EQUAL_REGISTER, R2, R7, 0, Target::Redirect);
        self.put(STORE_WORD, R10, R7, -4, 0);
        self.put(MOVE, R2, R10, 0, 0);
        self.put(ADD_IMMEDIATE, R2, 0, 0, -4);
        self.load_map(maps.astray);
        self.put(CALL, 0, 0, 0, LOOK_UP);
        self.jump(JUMP_EQUAL, R0, 0, 0, Target::Drop);
        self.put(MOVE_IMMEDIATE, R1, 0, 0, 1);
        self.put(ATOMIC_DOUBLE, R0, R1, 0, ADD);
        self.land(Target::Drop);
        self.end(DROP);
        self.land(Target::Redirect);
        self.load_map(maps.sockets);
        // What becomes of it while that queue has no socket.
        self.put(MOVE_IMMEDIATE, R3, 0, 0, DROP);
        self.put(CALL, 0, 0, 0, REDIRECT_MAP);
        self.put(EXIT, 0, 0, 0, 0);
    }

    fn end(&mut self, action: i32) {
        self.put(MOVE_IMMEDIATE, R0, 0, 0, action);
        self.put(EXIT, 0, 0, 0, 0);
    }

    /// Two instructions.
    fn load_map(&mut self, map: RawFd) {
        self.put(LOAD_IMMEDIATE, R1, PSEUDO_MAP_DESCRIPTOR, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn load_half(&mut self, offset: i16) {
        self.put(LOAD_HALF, R4, R2, offset, 0);
        self.put(TO_BIG_ENDIAN, R4, 0, 0, 16);
    }

    /// Comparisons are of 64 bits, and extend an immediate value by its sign: so it is done to addresses.
    fn load_address(&mut self, offset: i16) {
        self.put(LOAD_WORD, R4, R2, offset, 0);
        self.put(TO_BIG_ENDIAN, R4, 0, 0, 32);
        self.put(SHIFT_LEFT, R4, 0, 0, 32);
        self.put(SHIFT_RIGHT_SIGNED, R4, 0, 0, 32);
    }

    fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        let registers = source << 4 | destination;
        self.instructions.push(Instruction { code, registers, offset, immediate });
    }

    fn jump(&mut self, code: u8, left: u8, right: u8, immediate: i32, target: Target) {
        let mut offset = 0;
        match target {
            Target::Skip(count) => offset = count,
            _ => self.jumps.push((self.instructions.len(), target)),
        }
        self.put(code, left, right, offset, immediate);
    }

    /// Jumps to that target lead here.
    fn land(&mut self, target: Target) {
        let here = self.instructions.len();
        let instructions = &mut self.instructions;
        self.jumps.retain(|&(from, to)| {
            if to == target {
                let distance = here - from - 1;
                instructions[from].offset = i16::try_from(distance).expect("bounds keep it short");
            }
            to != target
        });
    }
}

fn immediate_of(address: Ipv4Addr) -> i32 {
    u32::from(address).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::super::filter::{BLOCKS_MAX, PEERS_MAX, PortBlock};
    use super::*;

    #[test]
    fn the_largest_filter_has_a_program() {
        let peer = |number: usize| Ipv4Addr::from(u32::try_from(number).unwrap());
        let block = |number: usize| {
            let port = u16::try_from(number).unwrap();
            PortBlock { ports: port..=port, queue: 255 }
        };
        let filter = Filter {
            local: Ipv4Addr::LOCALHOST,
            peers: (0..PEERS_MAX).map(peer).collect(),
            blocks: (0..BLOCKS_MAX).map(block).collect(),
        };
        let program = program_of(&filter, Maps { sockets: 3, astray: 4 });
        // BPF_MAXINSNS.
        assert!(program.len() < 4_096);
    }

    #[test]
    fn an_instruction_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
