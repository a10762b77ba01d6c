//! What a cluster of brokers says of its partitions. No client library is at hand here.

use std::io::{Read, Write};
use std::net::TcpStream;

/// A partition as a broker knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Replicas {
    pub topic: String,
    pub leader: i32,
    pub all: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// All partitions of a cluster, as the first broker of `addresses` that answers knows them: a
/// `Metadata` request of version 1.
pub fn replicas(addresses: &str) -> Vec<Replicas> {
    let mut brokers = addresses.split(',');
    let mut broker = brokers
        .find_map(|address| TcpStream::connect(address).ok())
        .expect("a broker");
    let mut body = Vec::new();
    body.extend_from_slice(&3_i16.to_be_bytes());
    body.extend_from_slice(&1_i16.to_be_bytes());
    body.extend_from_slice(&7_i32.to_be_bytes());
    body.extend_from_slice(&(-1_i16).to_be_bytes());
    // All topics.
    body.extend_from_slice(&(-1_i32).to_be_bytes());
    let length = (body.len() as i32).to_be_bytes();
    broker.write_all(&length).expect("sent");
    broker.write_all(&body).expect("sent");
    let mut length = [0; 4];
    broker.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).expect("an answer");
    let mut answer = Answer(&answer[4..]);
    for _ in 0..answer.int() {
        answer.int();
        answer.text();
        answer.int();
        answer.text();
    }
    answer.int();
    let mut found = Vec::new();
    for _ in 0..answer.int() {
        answer.short();
        let topic = answer.text();
        answer.take(1);
        for _ in 0..answer.int() {
            answer.short();
            answer.int();
            found.push(Replicas {
                topic: topic.clone(),
                leader: answer.int(),
                all: answer.ints(),
                in_sync: answer.ints(),
            });
        }
    }
    found
}

/// What is left of an answer in Kafka's protocol.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn short(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn text(&mut self) -> String {
        let length = usize::try_from(self.short()).unwrap_or_default();
        String::from_utf8_lossy(self.take(length)).into_owned()
    }

    fn ints(&mut self) -> Vec<i32> {
        (0..self.int()).map(|_| self.int()).collect()
    }
}
