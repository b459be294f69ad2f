#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn genesis() -> Genesis {
    Genesis {
        format: GenesisFormat::V1,
        name: "testnet".to_owned(),
        chain_id: 31_337,
        token: Address::repeat_byte(0x5f),
        epochs: EpochGrid { start_ms: 1_000, length_ms: 100, grace_ms: 30, future_ms: 20 },
        partitions: std::num::NonZeroU32::new(12).unwrap(),
        operator: OperatorKey([3; 32]),
    }
}

#[test]
fn the_canonical_text() {
    let bytes = genesis().to_bytes().unwrap();
    let operator = "03".repeat(32);
    let token = "5f".repeat(20);
    let expected = format!(
        "{{\"chain_id\":31337,\"epochs\":{{\"future_ms\":20,\"grace_ms\":30,\"length_ms\":100,\"start_ms\":1000}},\
         \"format\":\"fieldproof-genesis-1\",\"name\":\"testnet\",\"operator\":\"{operator}\",\"partitions\":12,\
         \"token\":\"0x{token}\"}}"
    );
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
    assert_eq!(Genesis::from_bytes(&bytes).unwrap(), genesis());
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let check = |change: fn(&mut Genesis), field: &str| {
        let mut genesis = genesis();
        change(&mut genesis);
        let error = genesis.to_bytes().unwrap_err();
        assert!(matches!(&error, GenesisError::Field { field: found, .. } if *found == field), "{error}");
    };
    check(|genesis| genesis.epochs.length_ms = 0, "epochs.length_ms");
    check(|genesis| genesis.epochs.start_ms = TIME_MS_MAX + 1, "epochs.start_ms");
    check(|genesis| genesis.epochs.grace_ms = u64::MAX, "epochs.grace_ms");
    check(|genesis| genesis.epochs.future_ms = u64::MAX, "epochs.future_ms");
}

fn grids() -> impl Strategy<Value = EpochGrid> {
    (0_u64..5_000, 1_u64..200, 0_u64..500, 0_u64..900).prop_map(
        |(start_ms, length_ms, grace_ms, future_ms)| EpochGrid { start_ms, length_ms, grace_ms, future_ms },
    )
}

proptest! {
    #[test]
    fn r1_slots_never_go_back(grid in grids(), appends in prop::collection::vec(-5_i64..9_000, 1..40)) {
        let mut slot = 0;
        for append_ms in appends {
            let next = grid.slot_after(slot, append_ms);
            prop_assert!(next >= slot);
            // The slot is still open at the append time, or was entered by an earlier record.
            let by_time = grid.slot_after(0, append_ms);
            prop_assert_eq!(next, slot.max(by_time));
            prop_assert!(u64::try_from(append_ms).unwrap_or(0) < grid.close_ms(by_time));
            prop_assert!(by_time == 0 || append_ms >= i64::try_from(grid.close_ms(by_time - 1)).unwrap());
            slot = next;
        }
    }

    /// Whatever record an accepted reading of a window stands in, its slot is not before the first
    /// that the epoch reads.
    #[test]
    fn r1_first_slot_for_misses_no_reading(
        grid in grids(), epoch in 0_u64..40, into in 0_u64..200, append_ms in 0_u64..12_000, slot in 0_u64..40,
    ) {
        let time_ms = grid.window_start_ms(epoch) + into % grid.length_ms;
        prop_assert_eq!(grid.epoch_of(time_ms), Some(epoch));
        prop_assert!(grid.first_slot_for(epoch) <= epoch);
        if time_ms <= append_ms + grid.future_ms {
            let slot = grid.slot_after(slot, i64::try_from(append_ms).unwrap());
            prop_assert!(slot >= grid.first_slot_for(epoch));
        }
    }

    /// A reading that is appended before its window's end and grace is on time.
    #[test]
    fn d2_a_prompt_reading_is_on_time(grid in grids(), epoch in 0_u64..40, into in 0_u64..200) {
        let time_ms = grid.window_start_ms(epoch) + into % grid.length_ms;
        prop_assert!(grid.slot_after(0, i64::try_from(time_ms).unwrap()) <= epoch);
        prop_assert!(time_ms < grid.window_end_ms(epoch));
        prop_assert_eq!(grid.window_end_ms(epoch), grid.window_start_ms(epoch + 1));
    }

    #[test]
    fn extremes_never_panic(
        start_ms in any::<u64>(), length_ms in 1_u64.., grace_ms in any::<u64>(), future_ms in any::<u64>(),
        epoch in any::<u64>(), append_ms in any::<i64>(),
    ) {
        let grid = EpochGrid { start_ms, length_ms, grace_ms, future_ms };
        prop_assert!(grid.slot_after(epoch, append_ms) >= epoch);
        prop_assert!(grid.first_slot_for(epoch) <= epoch);
        prop_assert!(grid.window_start_ms(epoch) <= grid.close_ms(epoch));
    }

    #[test]
    fn random_bytes_never_panic(text in ".{0,80}") {
        prop_assert!(Genesis::from_bytes(text.as_bytes()).is_err());
    }
}
