//! The tables of the way that links take, `[links]` and `[[interface]]`, which several programs have.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::Table;

/// What `[links]` and the tables `[[interface]]` say: `C` is which TCP, `M` how packets get to us, `E` what a program's
/// interfaces have besides.
#[derive(Debug)]
pub struct Links<C, M, E> {
    /// Which TCP.
    pub transport: C,
    /// How packets get to us.
    pub mode: M,
    /// Frames of each NIC queue.
    pub frames: u32,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// How long the kernel polls for us.
    pub busy_poll: Duration,
    /// Whether checksums of what comes are verified.
    pub verify_checksums: bool,
    /// Every `[[interface]]`, in order.
    pub interfaces: Vec<Interface<E>>,
}

/// What a table `[[interface]]` says.
#[derive(Debug)]
pub struct Interface<E> {
    /// Its name.
    pub name: String,
    /// Our address there.
    pub address: Ipv4Addr,
    /// The NIC queue of each thread.
    pub nic_queues: Vec<u32>,
    /// What this program's interfaces have besides.
    pub extra: E,
}

/// What the reader is told of the program.
#[derive(Debug)]
pub struct LinksKind<'k, C, M> {
    /// The values of `transport`: the kernel's TCP first, which is the default.
    pub transports: &'k [(&'k str, C)],
    /// The values of `mode`, the default first.
    pub modes: &'k [(&'k str, M)],
    /// Most interfaces.
    pub interfaces_max: usize,
    /// Threads that have links: each needs a NIC queue of every interface.
    pub threads: usize,
}

impl<C: Clone + PartialEq, M: Clone> LinksKind<'_, C, M> {
    /// Reads the tables. `extra` reads what an interface has besides; it is given the table and the count of its NIC queues.
    pub fn read<'d, E>(
        &self,
        root: &Table<'d>,
        mut extra: impl FnMut(&Table<'d>, usize) -> E,
    ) -> Links<C, M, E> {
        let links = root.table("links");
        let kernel = self.transports[0].1.clone();
        let transport = links.choice("transport", self.transports).default(kernel.clone());
        let mut interfaces = Vec::<Interface<E>>::new();
        for (place, table) in root.tables("interface").iter().enumerate() {
            if place == self.interfaces_max {
                table.mistake(format!("give {} interfaces at most", self.interfaces_max));
            }
            let interface = self.interface(table, transport != kernel, &mut extra);
            if interfaces.iter().any(|it| it.name == interface.name && !it.name.is_empty()) {
                let name = &interface.name;
                table.mistake_at("name", format!("{name:?} is named twice; names differ"));
            }
            let is_known = !interface.address.is_unspecified();
            if is_known && interfaces.iter().any(|it| it.address == interface.address) {
                table.mistake_at("address", "another interface has it; addresses differ");
            }
            interfaces.push(interface);
        }
        if transport != kernel && interfaces.is_empty() {
            let why = "without an `[[interface]]` there is no NIC queue to use";
            links.mistake_at("transport", why);
        }
        let frames =
            links.integer("frames").range(1024..=65_536).check(|frames: &u32| {
                match frames.is_power_of_two() {
                    true => Ok(()),
                    false => Err("give a power of two, such as 4096".into()),
                }
            });
        let sizes = [("2 KiB", 2048), ("4 KiB", 4096)];
        Links {
            transport,
            mode: links.choice("mode", self.modes).default(self.modes[0].1.clone()),
            frames: frames.default(4096),
            frame_bytes: links.choice("frame_size", &sizes).default(2048),
            busy_poll: links
                .duration("busy_poll")
                .range(Duration::ZERO..=Duration::from_millis(1))
                .default(Duration::ZERO),
            verify_checksums: links.boolean("verify_checksums").default(true),
            interfaces,
        }
    }

    fn interface<'d, E>(
        &self,
        table: &Table<'d>,
        is_used: bool,
        extra: &mut impl FnMut(&Table<'d>, usize) -> E,
    ) -> Interface<E> {
        let name = table.string("name").check(|name| match name.len() {
            1..=15 if !name.contains(['/', ' ']) => Ok(()),
            _ => Err("give the name of a network interface, such as \"eth1\"".into()),
        });
        let threads = self.threads;
        let nic_queues = table.nic_queues("nic_queues").check(|queues| {
            let repeats = (1..queues.len()).any(|place| queues[..place].contains(&queues[place]));
            match (!is_used || queues.len() == threads) && !repeats {
                true => Ok(()),
                false => Err(format!("give a NIC queue of its own for each of {threads} threads")),
            }
        });
        let nic_queues = nic_queues.required();
        Interface {
            name: name.required(),
            address: table.ipv4("address").required(),
            extra: extra(table, nic_queues.len()),
            nic_queues,
        }
    }
}
