//! A vCPU's state as its guest sees it: what KVM tells besides depends on the host, and two equal machines may differ in it.

use kvm_bindings::kvm_vcpu_events;

/// `events` without what KVM remembers of events that are over. It remembers those whose delivery it had to repeat, because
/// a page of the guest's stack was not mapped right then; so which they are depends on the host, and no guest sees them.
pub(super) fn without_leftovers(events: kvm_vcpu_events) -> kvm_vcpu_events {
    let mut events = events;
    if events.exception.injected == 0 && events.exception.pending == 0 {
        events.exception = Default::default();
        events.exception_has_payload = 0;
    }
    if events.exception_has_payload == 0 {
        events.exception_payload = 0;
    }
    if events.interrupt.injected == 0 {
        events.interrupt.nr = 0;
        events.interrupt.soft = 0;
    }
    events
}

/// The words of `region`, an XSAVE area, without what is no register's content. Which components are in use depends on
/// when the host last switched threads: one that holds what it holds after a reset may count as unused (Intel SDM volume 1,
/// 13.6). Our guests have x87 and SSE, and no XSAVE to see the difference with, so both are always in use. The bytes that
/// the layout leaves to software say what the host's processor supports.
pub(super) fn without_host_notes(region: &[u32]) -> Vec<u32> {
    const FOR_SOFTWARE: std::ops::Range<usize> = 464 / 4..512 / 4;
    const COMPONENTS_IN_USE: usize = 512 / 4;
    const X87_AND_SSE: u32 = 0b11;
    let mut words = region.to_vec();
    if let Some(words) = words.get_mut(FOR_SOFTWARE) {
        words.fill(0);
    }
    if let Some(word) = words.get_mut(COMPONENTS_IN_USE) {
        *word = X87_AND_SSE;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_at_rest_is_the_same_used_or_not() {
        let mut unused = vec![0; 1024];
        // The control words after a reset.
        (unused[0], unused[6]) = (0x37F, 0x1F80);
        let mut used = unused.clone();
        (used[116], used[128]) = (0xE7, 0b10);
        assert_eq!(without_host_notes(&unused), without_host_notes(&used));
        used[40] = 1;
        assert_ne!(without_host_notes(&unused), without_host_notes(&used));
    }

    #[test]
    fn only_events_that_are_not_over_are_told() {
        let mut events = kvm_vcpu_events::default();
        events.exception.nr = 14;
        events.exception.has_error_code = 1;
        events.exception.error_code = 2;
        events.exception_payload = 0x1000;
        events.interrupt.nr = 0x30;
        events.interrupt.soft = 1;
        events.interrupt.shadow = 1;
        let told = without_leftovers(events);
        let mut expected = kvm_vcpu_events::default();
        expected.interrupt.shadow = 1;
        assert_eq!(told, expected);
        events.exception.injected = 1;
        events.exception_has_payload = 1;
        events.interrupt.injected = 1;
        assert_eq!(without_leftovers(events), events);
    }
}
