//! A descriptor chain as the two lists that a request consists of: what the guest says, and its room for
//! the answer. Nothing is copied; the lists' memory is used again for the next chain.
//!
//! Read first: virtio 1.2, 2.7.4 (message framing) and 2.7.13.

use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};

use crate::sys::{Sink, Source};

/// Ranges of one chain, in either direction: a request of 1 MiB in single pages has 258.
const MOST_RANGES: usize = 1024;

/// The two lists of one chain.
pub(super) struct Lists<'g> {
    pub(super) request: Vec<Source<'g>>,
    pub(super) answer: Vec<Sink<'g>>,
    /// Where the answer's header goes, for an answer that comes later.
    pub(super) answer_at: Option<GuestAddress>,
}

/// A chain that cannot be a request: it names memory the guest does not have, or has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChain;

impl Lists<'static> {
    pub(super) fn new() -> Self {
        Self {
            request: Vec::with_capacity(MOST_RANGES),
            answer: Vec::with_capacity(MOST_RANGES),
            answer_at: None,
        }
    }

    /// The same lists, empty, for memory that lives as long as `'g`.
    pub(super) fn empty<'g>(&mut self) -> Lists<'g> {
        Lists {
            request: reuse(std::mem::take(&mut self.request)),
            answer: reuse(std::mem::take(&mut self.answer)),
            answer_at: None,
        }
    }

    pub(super) fn give_back(&mut self, lists: Lists<'_>) {
        self.request = reuse(lists.request);
        self.answer = reuse(lists.answer);
    }
}

impl<'g> Lists<'g> {
    /// Fills the lists, which are empty, from the chain.
    pub(super) fn fill(
        &mut self,
        memory: &'g GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Result<(), BadChain> {
        for descriptor in chain {
            let length = usize::try_from(descriptor.len()).map_err(|_| BadChain)?;
            for slice in GuestMemoryBackend::get_slices(memory, descriptor.addr(), length) {
                let slice = slice.map_err(|_| BadChain)?;
                if self.request.len() + self.answer.len() == MOST_RANGES {
                    return Err(BadChain);
                }
                if descriptor.is_write_only() {
                    self.answer.push(Sink::from(slice));
                } else {
                    self.request.push(Source::from(slice));
                }
            }
            if descriptor.is_write_only() && self.answer_at.is_none() {
                self.answer_at = Some(descriptor.addr());
            }
        }
        Ok(())
    }
}

/// The chains of these heads, in this order, whatever the guest's own ring says by now: a queue beside the
/// guest's, with a ring of our own in memory that is ours, and the same table of descriptors.
pub(super) fn chains_of(
    memory: &GuestMemoryMmap,
    of: &Queue,
    heads: &[u16],
) -> Option<(GuestMemoryMmap, Queue)> {
    const FLAGS_AND_INDEX: u64 = 4;
    let size = of.size();
    let behind = memory.last_addr().checked_add(GAP)?;
    let ring = GuestAddress(behind.raw_value() & !(GAP - 1));
    let length = usize::from(size) * size_of::<u16>() + 64;
    let own = GuestRegionMmap::from_range(ring, length, None).ok()?;
    let memory = memory.insert_region(Arc::new(own)).ok()?;
    let count = u16::try_from(heads.len())
        .ok()
        .filter(|count| *count <= size)?;
    for (place, head) in heads.iter().enumerate() {
        let at = ring.checked_add(FLAGS_AND_INDEX + 2 * place as u64)?;
        memory.write_obj(head.to_le(), at).ok()?;
    }
    memory.write_obj(count.to_le(), ring.checked_add(2)?).ok()?;
    let mut queue = Queue::new(size).ok()?;
    queue.try_set_size(size).ok()?;
    queue
        .try_set_desc_table_address(GuestAddress(of.desc_table()))
        .ok()?;
    queue.try_set_avail_ring_address(ring).ok()?;
    queue.set_ready(true);
    Some((memory, queue))
}

/// Between the guest's memory and ours: no guest's address is near.
const GAP: u64 = 1 << 30;

/// The vector's memory for another lifetime: collecting an emptied vector into one of the same layout
/// keeps its allocation.
fn reuse<A, B>(mut old: Vec<A>) -> Vec<B> {
    old.clear();
    old.into_iter().filter_map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_memory() {
        let mut lists = Lists::new();
        let before = lists.request.as_ptr();
        let byte = [1];
        let mut borrowed = lists.empty();
        borrowed.request.push(Source::from(&byte[..]));
        lists.give_back(borrowed);
        assert_eq!(lists.request.as_ptr(), before);
        assert!(lists.request.is_empty() && lists.request.capacity() >= MOST_RANGES);
    }

    #[test]
    fn chains_are_found_by_their_heads_whatever_the_ring_says() {
        const TABLE: u64 = 0x1000;
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        for index in 0..8_u64 {
            // Address, length, no flags.
            let at = TABLE + index * 16;
            memory.write_obj(0x2000 + index, GuestAddress(at)).unwrap();
            memory.write_obj(1_u32, GuestAddress(at + 8)).unwrap();
        }
        let mut queue = Queue::new(8).unwrap();
        queue.try_set_size(8).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(TABLE))
            .unwrap();
        let (beside, mut found) = chains_of(&memory, &queue, &[5, 0, 7]).unwrap();
        let chains = std::iter::from_fn(|| found.pop_descriptor_chain(&beside));
        let heads: Vec<_> = chains
            .map(|chain| {
                (
                    chain.head_index(),
                    chain.map(|part| part.addr().0).collect(),
                )
            })
            .collect();
        let expected: [(u16, Vec<u64>); 3] =
            [(5, vec![0x2005]), (0, vec![0x2000]), (7, vec![0x2007])];
        assert_eq!(heads, expected);
        assert!(
            chains_of(&memory, &queue, &[0; 9]).is_none(),
            "more than it has"
        );
    }
}
