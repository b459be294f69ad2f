use proptest::prelude::*;

use super::*;

/// What happens between two batches of a stream.
#[derive(Debug, Clone, Copy)]
enum Step {
    Next,
    Gap,
    Boot,
    BrokenLink,
    OffsetBack,
}

fn step() -> impl Strategy<Value = (Step, bool)> {
    let step = prop_oneof![
        6 => Just(Step::Next),
        1 => Just(Step::Gap),
        1 => Just(Step::Boot),
        1 => Just(Step::BrokenLink),
        1 => Just(Step::OffsetBack),
    ];
    (step, prop::bool::weighted(0.1))
}

fn digest(number: usize) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).wrapping_add(1).to_le_bytes());
    Digest(bytes)
}

fn batches(steps: &[(Step, bool)]) -> Vec<Acknowledged> {
    let (mut boot, mut seq, mut offset) = (1, 0, 1_000_000);
    let mut batches = Vec::new();
    for (number, (step, _)) in steps.iter().enumerate() {
        offset += 3;
        match step {
            Step::Next | Step::BrokenLink => seq += 1,
            Step::Gap => seq += 2,
            Step::Boot => (boot, seq) = (boot + 1, 0),
            Step::OffsetBack => (seq, offset) = (seq + 1, offset - 500),
        }
        let previous =
            if matches!(step, Step::BrokenLink) { Digest::ZERO } else { digest(number.wrapping_sub(1)) };
        batches.push(Acknowledged {
            place: Place { boot, seq },
            previous,
            digest: digest(number),
            offset,
            bytes: 10 + number as u32,
        });
    }
    batches
}

proptest! {
    #[test]
    fn every_batch_is_in_exactly_one_span_and_only_linked_ones_share_it(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        // The first step has nothing before it.
        let mut steps = steps;
        steps[0].0 = Step::BrokenLink;
        let batches = batches(&steps);
        let mut coalescer = Coalescer::default();
        let mut spans = Vec::new();
        for (batch, (_, cut)) in batches.iter().zip(&steps) {
            spans.extend(coalescer.push(batch));
            if *cut {
                spans.extend(coalescer.take());
            }
        }
        spans.extend(coalescer.take());
        prop_assert_eq!(coalescer.take(), None);

        let mut rest = &batches[..];
        let mut starts = 0;
        for span in &spans {
            let count = usize::try_from(span.to_seq - span.from_seq + 1).unwrap();
            let (covered, after) = rest.split_at(count);
            rest = after;
            for (batch, seq) in covered.iter().zip(span.from_seq..) {
                prop_assert_eq!(batch.place, Place { boot: span.boot, seq });
            }
            for pair in covered.windows(2) {
                prop_assert_eq!(pair[1].previous, pair[0].digest);
                prop_assert!(pair[1].offset > pair[0].offset);
            }
            let last = covered.last().unwrap();
            prop_assert_eq!((span.digest, span.offset), (last.digest, last.offset));
            prop_assert_eq!(span.credit_bytes, covered.iter().map(|batch| batch.bytes).sum::<u32>());
            starts += 1;
        }
        prop_assert!(rest.is_empty());
        // No more spans than there are reasons for one.
        let reason = |(step, cut): &(Step, bool)| usize::from(*cut) + usize::from(!matches!(step, Step::Next));
        prop_assert!(starts <= steps.iter().map(reason).sum::<usize>());
    }
}
