//! Every message comes back as it was, and nothing else is taken for one.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::Index;
use timely::bytes::arc::BytesMut;
use timely::dataflow::channels::ContainerBytes;

use super::*;
use crate::aggregate::{Aggregate, Total, mean};
use crate::decode::{DeadLetter, Reason, Text};
use crate::flow::{Block, Record, Tally};
use crate::rows::{Completeness, Pane, Timing};
use crate::time::{Epoch, EventTime, Offset, PartitionId};
use crate::window::{Change, Partial, Slot};

type State = (u64, Total, Option<f64>, Option<i32>);

/// A record with whatever a record may hold.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    device: Text<16>,
    id: Option<u128>,
    is_hot: bool,
    value: f64,
}

crate::fixed_layout!(Reading {
    device,
    id,
    is_hot,
    value
});

fn encoded<T: Wire, C: Codec>(batch: &Batch<T, C>) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch.into_bytes(&mut bytes);
    bytes
}

/// What may happen to a message on the way.
#[derive(Clone, Debug)]
struct Damage {
    cut: Index,
    flips: Vec<Index>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = proptest::collection::vec(any::<Index>(), 1..4);
    (any::<Index>(), flips).prop_map(|(cut, flips)| Damage { cut, flips })
}

/// `is_exact`: whether each value has only one form.
fn check<T, C>(items: Vec<T>, damage: &Damage, is_exact: bool) -> Result<(), TestCaseError>
where
    T: Wire + Clone + Debug + PartialEq,
    C: Codec,
{
    let batch = Batch::<T, C>::from(items);
    let bytes = encoded(&batch);
    prop_assert_eq!(bytes.len(), batch.length_in_bytes());
    prop_assert_eq!(bytes.len() % 8, 0);
    let back = Batch::<T, C>::from_bytes(BytesMut::from(bytes.clone()).freeze());
    prop_assert_eq!(&back.items, &batch.items);
    let shifted = [&[0], &bytes[..]].concat();
    let back = Batch::<T, C>::decode(&shifted[1..]).expect("at an odd address, too");
    prop_assert_eq!(&back.items, &batch.items);

    let cut = damage.cut.index(bytes.len());
    prop_assert!(Batch::<T, C>::decode(&bytes[..cut]).is_err());
    let longer = [&bytes[..], &[0; 8]].concat();
    prop_assert!(Batch::<T, C>::decode(&longer).is_err());

    let mut flipped = bytes.clone();
    for flip in &damage.flips {
        let bit = flip.index(bytes.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    if let Ok(other) = Batch::<T, C>::decode(&flipped) {
        let again = encoded(&other);
        if is_exact {
            prop_assert_eq!(&again, &flipped, "what is accepted is what would be sent");
        }
        prop_assert!(Batch::<T, C>::decode(&again).is_ok());
    }
    Ok(())
}

fn check_all<T>(items: Vec<T>, damage: &Damage, is_exact: bool) -> Result<(), TestCaseError>
where
    T: Wire + Clone + Debug + PartialEq,
{
    #[cfg(feature = "abomonation")]
    {
        let one = encoded(&Batch::<T, Bytemuck>::from(items.clone()));
        let other = encoded(&Batch::<T, Abomonation>::from(items.clone()));
        prop_assert_eq!(one, other, "both codecs write the same bytes");
        check::<T, Abomonation>(items.clone(), damage, is_exact)?;
    }
    check::<T, Bytemuck>(items, damage, is_exact)
}

fn time() -> impl Strategy<Value = EventTime> {
    any::<i64>().prop_map(EventTime)
}

fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    let texts = proptest::collection::vec(prop_oneof![Just('a'), Just('é'), Just('z')], 0..N / 2);
    texts.prop_map(|chars| Text::new(&chars.into_iter().collect::<String>()).expect("short"))
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(-1e6_f64..1e6)
}

fn state() -> impl Strategy<Value = State> {
    let numbers = proptest::collection::vec(number(), 0..5);
    (any::<u64>(), numbers, number(), any::<Option<i32>>()).prop_map(
        |(count, numbers, max, gear)| {
            let mean = mean(|value: &Option<f64>| *value);
            let mut total = mean.empty();
            numbers.iter().for_each(|value| mean.add(&mut total, value));
            (count, total, max, gear)
        },
    )
}

fn partial() -> impl Strategy<Value = Partial<Text<8>, State>> {
    let slot = (0..3, time()).prop_map(|(kind, time)| match kind {
        0 => Slot::Pane(time),
        1 => Slot::OnTime(time),
        _ => Slot::Revision(time),
    });
    (slot, text(), state()).prop_map(|(slot, key, state)| Partial { slot, key, state })
}

fn change() -> impl Strategy<Value = Change<u128, (u64, Option<f64>)>> {
    let timing = prop::sample::select(vec![Timing::Early, Timing::OnTime, Timing::Late]);
    let complete = prop::sample::select(vec![
        Completeness::Proved,
        Completeness::Idle,
        Completeness::WallClock,
        Completeness::EndOfInput,
    ]);
    let pane = (timing, any::<u32>(), any::<bool>(), complete);
    let pane = pane.prop_map(|(timing, index, is_final, complete)| Pane {
        timing,
        index,
        is_final,
        complete,
    });
    let value = (any::<u64>(), number());
    (time(), time(), any::<u128>(), value, pane, -1_i64..=1).prop_map(
        |(start, end, key, value, pane, diff)| Change {
            start,
            end,
            key,
            value,
            pane,
            diff,
        },
    )
}

fn block<R: Debug + 'static>(value: impl Strategy<Value = R>) -> impl Strategy<Value = Block<R>> {
    let record =
        (any::<u64>(), time(), time(), value).prop_map(|(offset, time, effect, value)| Record {
            offset: Offset(offset),
            time,
            effect,
            value,
        });
    let records = proptest::collection::vec(record, 0..6);
    (any::<u32>(), any::<u64>(), any::<u64>(), records).prop_map(
        |(partition, from, to, records)| Block {
            partition: PartitionId(partition),
            from: Offset(from),
            to: Offset(to),
            records,
        },
    )
}

fn reading() -> impl Strategy<Value = Reading> {
    (text(), any::<Option<u128>>(), any::<bool>(), -1e9_f64..1e9).prop_map(
        |(device, id, is_hot, value)| Reading {
            device,
            id,
            is_hot,
            value,
        },
    )
}

fn letter() -> impl Strategy<Value = DeadLetter> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    ("[a-zé]{0,12}", any::<u32>(), any::<u64>(), value).prop_map(
        |(text, partition, offset, value)| DeadLetter {
            topic: text.clone(),
            partition: PartitionId(partition),
            offset: Offset(offset),
            reason: Reason::TooLong,
            detail: text,
            value,
        },
    )
}

fn many<T: Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(item, 0..12)
}

proptest! {
    #[test]
    fn partial_results_travel(items in many(partial()), damage in damage()) {
        check_all(items, &damage, true)?;
    }

    #[test]
    fn changes_travel(items in many(change()), damage in damage()) {
        check_all(items, &damage, true)?;
    }

    #[test]
    fn blocks_travel(items in many(block(reading())), damage in damage()) {
        check_all(items, &damage, true)?;
    }

    #[test]
    fn blocks_of_texts_travel(items in many(block(letter())), damage in damage()) {
        check_all(items, &damage, false)?;
    }

    #[test]
    fn tallies_travel(
        items in many((any::<u64>(), time(), number())), damage in damage(),
    ) {
        let tally = |(epoch, watermark, value)| Tally { epoch: Epoch(epoch), watermark, value };
        check_all(items.into_iter().map(tally).collect(), &damage, true)?;
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), counted in 0_u64..9,
    ) {
        let mut message = encoded(&Batch::<Reading, Bytemuck>::from(Vec::new()));
        message[8..].copy_from_slice(&counted.to_ne_bytes());
        message.extend(bytes);
        if let Ok(batch) = Batch::<Reading, Bytemuck>::decode(&message) {
            prop_assert_eq!(encoded(&batch), message);
        }
    }
}

#[test]
fn what_is_wrong_with_a_message_is_said() {
    let decode = |bytes: &[u8]| Batch::<u64>::decode(bytes).map(|batch| batch.items);
    let bytes = encoded(&Batch::<u64>::from(vec![7, 8]));
    assert_eq!(decode(&bytes), Ok(vec![7, 8]));
    let short = |needed, left| Err(WireError::Short { needed, left });
    assert_eq!(decode(&[]), short(8, 0));
    assert_eq!(decode(&bytes[..12]), short(8, 4));
    assert_eq!(
        decode(&bytes[..24]),
        Err(WireError::Count { count: 2, most: 1 })
    );
    let mut huge = bytes.clone();
    huge[8..16].fill(0xff);
    let (count, most) = (u64::MAX, 2);
    assert_eq!(decode(&huge), Err(WireError::Count { count, most }));
    let trailing = [&bytes[..], &[0; 8]].concat();
    assert_eq!(decode(&trailing), Err(WireError::Trailing { left: 8 }));
    let other = encoded(&Batch::<u32>::from(vec![7, 8]));
    assert!(matches!(decode(&other), Err(WireError::Foreign { .. })));
    let mut null = encoded(&Batch::<Option<u64>>::from(vec![None]));
    assert!(Batch::<Option<u64>>::decode(&null).is_ok());
    null[16] = 2;
    let error = Batch::<Option<u64>>::decode(&null).expect_err("no tag");
    assert!(matches!(error, WireError::Invalid { .. }), "{error}");
    (null[16], null[17]) = (0, 1);
    Batch::<Option<u64>>::decode(&null).expect_err("a null with a value");
    let mut padded = encoded(&Batch::<u8>::from(vec![1]));
    padded[23] = 1;
    Batch::<u8>::decode(&padded).expect_err("padding that is not zero");
}

#[test]
fn nothing_follows_a_text_in_its_place() {
    let mut tried = 0;
    for size in 0..8 {
        let letter = DeadLetter {
            topic: "topic".to_owned(),
            partition: PartitionId(1),
            offset: Offset(2),
            reason: Reason::NoKey,
            detail: String::new(),
            value: vec![b'x'; size],
        };
        let mut bytes = encoded(&Batch::<DeadLetter>::from(vec![letter]));
        let (length, room) = (bytes[16], bytes.len() - 24);
        if usize::from(length) < room {
            bytes[16] += 1;
            Batch::<DeadLetter>::decode(&bytes).expect_err("a byte too many");
            tried += 1;
        }
    }
    assert_eq!(tried, 7);
}

#[test]
#[should_panic(expected = "must be the same build")]
fn a_broken_message_does_not_become_a_container() {
    let bytes = BytesMut::from(vec![1_u8; 32]).freeze();
    Batch::<u64>::from_bytes(bytes);
}
