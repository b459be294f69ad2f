//! Every wrong input gets its own answer, and everything else goes on.

use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

use fieldproof_device::{Link, LinkError};
use fieldproof_ingest::{Ingest, IngestLimits};
use fieldproof_proto::{
    batch::{BATCH_BYTES_MAX, BatchHeader, Place},
    ids::{Digest, NetworkId},
    receipt::{Rejection, RejectionCode},
    signature::DeviceSecret,
    v1::{
        Down, Hello, RegisterRequest, RegisterResponse, SignedBatch, SubmitRequest, SubmitResponse, Up, down,
        submit_response::Answer, up,
    },
};
use prost::{Message, bytes::Bytes};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt as _;

use crate::support::{World, channel};

/// Sends any bytes as a message.
struct RawCodec<U>(PhantomData<U>);
struct RawEncoder;
struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Codec for RawCodec<U> {
    type Encode = Bytes;
    type Decode = U;
    type Encoder = RawEncoder;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> MessageDecoder<U> {
        MessageDecoder(PhantomData)
    }
}

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// One unary call.
async fn call<U: Message + Default + 'static>(
    channel: Channel,
    method: &'static str,
    request: Bytes,
) -> Result<U, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = format!("/fieldproof.v1.Ingest/{method}").parse().unwrap();
    let answer = client.unary(tonic::Request::new(request), path, RawCodec(PhantomData)).await?;
    Ok(answer.into_inner())
}

impl World {
    pub async fn register(&self, ingest: &Ingest, secret: &DeviceSecret) -> RegisterResponse {
        self.try_register(ingest, secret, "energy").await.unwrap()
    }

    async fn try_register(
        &self,
        ingest: &Ingest,
        secret: &DeviceSecret,
        program: &str,
    ) -> Result<RegisterResponse, Status> {
        let request = RegisterRequest { registration: Some(self.registration(secret, program)) };
        call(channel(ingest).await, "Register", request.encode_to_vec().into()).await
    }

    async fn submit(&self, ingest: &Ingest, batch: SignedBatch) -> Result<SubmitResponse, Status> {
        let request = SubmitRequest { network_id: self.network.0.to_vec().into(), batch: Some(batch) };
        call(channel(ingest).await, "Submit", request.encode_to_vec().into()).await
    }
}

fn status(error: LinkError) -> Status {
    match error {
        LinkError::Status(status) => *status,
        other => panic!("no status: {other}"),
    }
}

async fn rejection(link: &mut Link) -> (Rejection, String) {
    match link.next().await.unwrap().unwrap().message.unwrap() {
        down::Message::Rejection(rejection) => {
            (Rejection::verify(&rejection.body, &rejection.signature).unwrap(), rejection.message)
        }
        other => panic!("no rejection: {other:?}"),
    }
}

async fn receipt(link: &mut Link) -> fieldproof_proto::receipt::Receipt {
    match link.next().await.unwrap().unwrap().message.unwrap() {
        down::Message::Receipt(receipt) => {
            fieldproof_proto::receipt::Receipt::verify(&receipt.body, &receipt.signature).unwrap()
        }
        other => panic!("no receipt: {other:?}"),
    }
}

/// The wrong batches, with what they are refused for and what the message names.
fn wrong_batches(world: &World, secret: &DeviceSecret) -> Vec<(SignedBatch, RejectionCode, String)> {
    let (good, _) = world.batch(secret, 0, Digest::ZERO);
    let mut bad_signature = good.clone();
    bad_signature.signature = vec![7; 64].into();
    let mut short_signature = good.clone();
    short_signature.signature = vec![7; 63].into();
    let mut wrong_network = good.clone();
    let mut header = BatchHeader::parse(&good.header).unwrap();
    header.network_tag = [0xab; 4];
    wrong_network.header = header.encode().to_vec().into();
    let mut too_large = good.clone();
    too_large.payload = vec![1; BATCH_BYTES_MAX].into();
    let mut not_canonical = good.clone();
    not_canonical.payload = [&good.payload[..], &[0]].concat().into();
    let mut short_header = good.clone();
    short_header.header = good.header.slice(..20);
    let mut no_readings = good.clone();
    no_readings.payload = vec![0, 1].into();
    let (other_device, _) = world.batch(&DeviceSecret::ed25519([99; 32]), 0, Digest::ZERO);
    let other_id = DeviceSecret::ed25519([99; 32]).public_key().device_id().to_string();
    let size = BATCH_BYTES_MAX.to_string();
    vec![
        (bad_signature, RejectionCode::BadSignature, "`1`.`0`".to_owned()),
        (short_signature, RejectionCode::BadSignature, "63".to_owned()),
        (wrong_network, RejectionCode::WrongNetwork, "abababab".to_owned()),
        (too_large, RejectionCode::TooLarge, size),
        (SignedBatch::default(), RejectionCode::Empty, "no header".to_owned()),
        (no_readings, RejectionCode::Empty, "0 readings".to_owned()),
        (not_canonical, RejectionCode::Malformed, "1 bytes after its end".to_owned()),
        (short_header, RejectionCode::Malformed, "ends early".to_owned()),
        (other_device, RejectionCode::WrongDevice, other_id),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_batches_are_rejected_by_name_and_good_ones_between_them_pass() {
    let world = World::new();
    let ingest = world.ingest().await;
    let secret = DeviceSecret::ed25519([50; 32]);
    world.register(&ingest, &secret).await;
    let mut link = world.link(&ingest, &secret).await;
    let mut expected = BTreeMap::new();
    let mut previous = Digest::ZERO;
    for (seq, (batch, code, names)) in wrong_batches(&world, &secret).into_iter().enumerate() {
        link.send(batch.clone()).await.unwrap();
        let (rejection, message) = rejection(&mut link).await;
        assert_eq!(rejection.code, code, "{message}");
        assert!(message.contains(&names), "`{message}` names `{names}`");
        assert_eq!(rejection.device, secret.public_key().device_id());
        let place =
            BatchHeader::parse(&batch.header).map_or(Place { boot: 0, seq: 0 }, |header| header.place);
        assert_eq!(rejection.place, place);
        *expected.entry(code.name()).or_insert(0) += 1;

        let (good, digest) = world.batch(&secret, seq as u64, previous);
        link.send(good).await.unwrap();
        assert_eq!(receipt(&mut link).await.digest, digest);
        previous = digest;
    }
    assert_eq!(ingest.counts().refused, expected);
    assert_eq!(world.telemetry().len() as u64, 1 + ingest.counts().batches_logged);
    drop(link);
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_a_stream_of_one() {
    let world = World::new();
    let ingest = world.ingest().await;
    let secret = DeviceSecret::ed25519([51; 32]);
    let (good, digest) = world.batch(&secret, 0, Digest::ZERO);
    let answer = world.submit(&ingest, good.clone()).await.unwrap();
    let Some(Answer::Receipt(receipt)) = answer.answer else { panic!("no receipt") };
    let receipt = fieldproof_proto::receipt::Receipt::verify(&receipt.body, &receipt.signature).unwrap();
    assert_eq!((receipt.from_seq, receipt.to_seq, receipt.digest), (0, 0, digest));
    assert!(answer.notices[0].message.contains(&secret.public_key().device_id().to_string()));

    world.register(&ingest, &secret).await;
    let answer = world.submit(&ingest, good).await.unwrap();
    assert!(answer.notices.is_empty());
    for (batch, code, names) in wrong_batches(&world, &secret) {
        if code == RejectionCode::WrongDevice {
            continue;
        }
        let answer = world.submit(&ingest, batch).await.unwrap().answer;
        let Some(Answer::Rejection(rejection)) = answer else { panic!("no rejection") };
        assert!(rejection.message.contains(&names), "{}", rejection.message);
        assert_eq!(Rejection::verify(&rejection.body, &rejection.signature).unwrap().code, code);
    }
    let error: Result<SubmitResponse, _> =
        call(channel(&ingest).await, "Submit", Bytes::from_static(b"\xff\xff")).await;
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ingest.counts().refused["unregistered"], 1);
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_end_the_stream_after_what_was_good() {
    let world = World::new();
    let ingest = world.ingest().await;
    let secret = DeviceSecret::ed25519([52; 32]);
    world.register(&ingest, &secret).await;
    let hello = Hello {
        network_id: world.network.0.to_vec().into(),
        device_id: secret.public_key().device_id().0.to_vec().into(),
    };
    let (good, _) = world.batch(&secret, 0, Digest::ZERO);
    let up = |message| Bytes::from(Up { message: Some(message) }.encode_to_vec());
    let messages = vec![
        up(up::Message::Hello(hello)),
        up(up::Message::Batch(good)),
        Bytes::from_static(b"\x12\xff\xff\xff"),
    ];
    let mut client = tonic::client::Grpc::new(channel(&ingest).await);
    client.ready().await.unwrap();
    let path = "/fieldproof.v1.Ingest/Stream".parse().unwrap();
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let mut answers =
        client.streaming(request, path, RawCodec::<Down>(PhantomData)).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    let error = loop {
        match answers.message().await {
            Ok(Some(Down { message: Some(message) })) => kinds.push(match message {
                down::Message::Welcome(_) => "welcome",
                down::Message::Receipt(_) => "receipt",
                _ => "other",
            }),
            Ok(_) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(kinds, ["welcome", "receipt"]);
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(ingest.counts().refused, BTreeMap::from([("malformed_message", 1)]));
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_must_be_in_time_and_of_this_network() {
    let world = World::new();
    let limits = IngestLimits { hello_timeout: Duration::from_millis(50), ..IngestLimits::default() };
    let ingest = world.ingest_with(limits).await.unwrap();
    let device = DeviceSecret::ed25519([53; 32]).public_key().device_id();
    let other = NetworkId([0xcd; 32]);
    let error = Link::connect(channel(&ingest).await, other, device).await.err().unwrap();
    let error = status(error);
    assert_eq!(error.code(), Code::FailedPrecondition);
    for id in [other, world.network] {
        assert!(error.message().contains(&id.to_string()), "{error}");
    }
    let first = Up { message: Some(up::Message::Batch(SignedBatch::default())) };
    let error = status(Link::open(channel(&ingest).await, first).await.err().unwrap());
    assert_eq!(error.code(), Code::InvalidArgument);

    let mut client = tonic::client::Grpc::new(channel(&ingest).await);
    client.ready().await.unwrap();
    let path = "/fieldproof.v1.Ingest/Stream".parse().unwrap();
    let silence = tonic::Request::new(tokio_stream::pending());
    let error = client.streaming(silence, path, RawCodec::<Down>(PhantomData)).await.err().unwrap();
    assert!(error.message().contains("no hello came within `50` ms"), "{error}");
    assert_eq!(ingest.counts().refused, BTreeMap::from([("hello", 2), ("wrong_network_hello", 1)]));
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unregistered_devices_are_told_and_bounded() {
    let world = World::new();
    let limits = IngestLimits { unregistered_batches_per_second_max: 3, ..IngestLimits::default() };
    let ingest = world.ingest_with(limits).await.unwrap();
    let secret = DeviceSecret::ed25519([54; 32]);
    let id = secret.public_key().device_id().to_string();
    let mut link = world.link(&ingest, &secret).await;
    let mut previous = Digest::ZERO;
    for seq in 0..50 {
        let (batch, digest) = world.batch(&secret, seq, previous);
        previous = digest;
        if link.send(batch).await.is_err() {
            break;
        }
    }
    let (mut notices, mut covered) = (0, 0);
    let error = loop {
        match link.next().await.map(|down| down.unwrap().message.unwrap()) {
            Ok(down::Message::Notice(notice)) => {
                assert!(notice.message.contains(&id), "{}", notice.message);
                notices += 1;
            }
            Ok(down::Message::Receipt(receipt)) => {
                let receipt =
                    fieldproof_proto::receipt::Receipt::verify(&receipt.body, &receipt.signature).unwrap();
                covered += receipt.to_seq - receipt.from_seq + 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => break status(error),
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("unregistered") && error.message().contains(&id), "{error}");
    assert!(error.get_details_retry_info().is_some());
    let counts = ingest.counts();
    assert!(covered >= 3);
    assert_eq!((notices, counts.batches_logged), (covered, covered));
    assert_eq!(counts.refused, BTreeMap::from([("unregistered", covered), ("unregistered_rate", 1)]));
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_a_client_without_credit_is_refused_and_told_when_to_come_back() {
    let world = World::new();
    let secret = DeviceSecret::ed25519([55; 32]);
    let (batch, _) = world.batch(&secret, 0, Digest::ZERO);
    let bytes = u32::try_from(batch.encoded_len()).unwrap();
    let limits = IngestLimits {
        batch_bytes_max: bytes + 8,
        credit_bytes: 2 * bytes,
        streams_max: 1,
        ..IngestLimits::default()
    };
    let ingest = world.ingest_with(limits).await.unwrap();
    world.register(&ingest, &secret).await;
    let mut link = world.link(&ingest, &secret).await;
    let full = Link::connect(channel(&ingest).await, world.network, secret.public_key().device_id()).await;
    let full = status(full.err().unwrap());
    assert_eq!((full.code(), full.get_details_retry_info().is_some()), (Code::ResourceExhausted, true));

    // Many more than the answers can keep up with.
    let mut previous = Digest::ZERO;
    for seq in 0..400 {
        let (batch, digest) = world.batch(&secret, seq, previous);
        previous = digest;
        if link.send(batch).await.is_err() {
            break;
        }
    }
    let mut covered = 0;
    let error = loop {
        match link.next().await.map(|down| down.unwrap().message.unwrap()) {
            Ok(down::Message::Receipt(receipt)) => {
                let receipt =
                    fieldproof_proto::receipt::Receipt::verify(&receipt.body, &receipt.signature).unwrap();
                assert_eq!(receipt.from_seq, covered);
                covered = receipt.to_seq + 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => break status(error),
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.message().contains(&(2 * bytes).to_string()), "{error}");
    assert!(error.get_details_retry_info().is_some());
    let counts = ingest.counts();
    assert_eq!(counts.batches_logged, covered, "what was logged before it is answered");
    assert_eq!(counts.refused, BTreeMap::from([("credit", 1), ("overload", 1)]));
    ingest.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_checked_before_they_are_logged() {
    let world = World::new();
    let ingest = world.ingest().await;
    let secret = DeviceSecret::ed25519([56; 32]);
    let error = world.try_register(&ingest, &secret, "forged").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "the program `forged` is not known; there are: energy");

    let send = |registration| async {
        let request = RegisterRequest { registration: Some(registration) };
        let sent = call(channel(&ingest).await, "Register", request.encode_to_vec().into()).await;
        sent.map(|response: RegisterResponse| response)
    };
    for wrong in ["device", "provider", "admitter"] {
        let mut registration = world.registration(&secret, "energy");
        match wrong {
            "device" => registration.device_signature = vec![1; 64].into(),
            "provider" => registration.provider_signature = vec![1; 65].into(),
            _ => registration.admitter_signature = vec![1; 64].into(),
        }
        let error = send(registration).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(wrong), "{error}");
    }
    assert_eq!(world.telemetry(), []);
    let first = world.register(&ingest, &secret).await;
    let second = world.register(&ingest, &secret).await;
    assert_eq!((first.partition, first.offset + 1), (second.partition, second.offset));
    let records = world.telemetry();
    assert_eq!(records[0].kind, "registration");
    let cached = world.kafka.read("registry", 1);
    assert_eq!((cached.len(), &cached[0].value), (2, &records[0].value));
    assert_eq!(cached[0].key, secret.public_key().device_id().0);
    assert_eq!(ingest.counts().refused, BTreeMap::from([("registration", 4)]));
    ingest.stop().await.unwrap();
}
