"""Messages with schemas of a registry, read and written by other people's code: confluent-kafka,
fastavro, and the registry's HTTP interface. Shares nothing with the engine.

    registry.py read BROKER TOPIC REGISTRY
        prints a JSON line per message: partition, offset, id and event (null: it has no frame)
    registry.py write BROKER TOPIC REGISTRY SUBJECT SCHEMA_FILE
        registers the schema, then writes what it reads: JSON lines {"partition", "event"}
    registry.py write BROKER TOPIC REGISTRY --id ID SCHEMA_FILE
        the same without asking the registry
    registry.py raw BROKER TOPIC
        writes what it reads: JSON lines {"partition", "hex"}
"""

import io
import json
import struct
import sys
import urllib.request

import fastavro
from confluent_kafka import Consumer, Producer, TopicPartition

# The registry and the broker are on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    with OPENER.open(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return json.load(answer)


def read(broker, topic, registry):
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "oracle", "enable.partition.eof": False})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in partitions}
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions if ends[p] > 0])
    left = {p for p in partitions if ends[p] > 0}
    schemas = {}
    while left:
        message = consumer.poll(30)
        if message is None or message.error():
            sys.exit(f"nothing was read: {message and message.error()}")
        payload, event, number = message.value(), None, None
        if payload[:1] == b"\0" and len(payload) >= 5:
            (number,) = struct.unpack(">I", payload[1:5])
            if number not in schemas:
                found = ask(f"{registry}/schemas/ids/{number}")
                kind = found.get("schemaType", "AVRO")
                schemas[number] = fastavro.parse_schema(json.loads(found["schema"])) if kind == "AVRO" else None
            if schemas[number] is None:
                event = json.loads(payload[5:])
            else:
                event = fastavro.schemaless_reader(io.BytesIO(payload[5:]), schemas[number], None)
        place = {"partition": message.partition(), "offset": message.offset()}
        print(json.dumps(place | {"id": number, "event": event}))
        if message.offset() + 1 >= ends[message.partition()]:
            left.discard(message.partition())
    consumer.close()


def produce(broker, topic, payloads):
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5})
    failed = []
    for partition, payload in payloads:
        producer.produce(topic, payload, partition=partition, on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    if producer.flush(60) or failed:
        sys.exit(f"not everything was written: {failed[:3]}")


def write(broker, topic, registry, subject, *rest):
    text = open(rest[-1], encoding="utf-8").read()
    if subject == "--id":
        number = int(rest[0])
    else:
        number = ask(f"{registry}/subjects/{subject}/versions", {"schema": text})["id"]
    schema = fastavro.parse_schema(json.loads(text))

    def payload(event):
        out = io.BytesIO(struct.pack(">bI", 0, number))
        out.seek(5)
        fastavro.schemaless_writer(out, schema, event)
        return out.getvalue()

    lines = [json.loads(line) for line in sys.stdin]
    produce(broker, topic, [(line["partition"], payload(line["event"])) for line in lines])
    print(number)


def raw(broker, topic):
    lines = [json.loads(line) for line in sys.stdin]
    produce(broker, topic, [(line["partition"], bytes.fromhex(line["hex"])) for line in lines])


if __name__ == "__main__":
    {"read": read, "write": write, "raw": raw}[sys.argv[1]](*sys.argv[2:])
