// What the users of npm's amqplib do every day: node amqplib.cjs PORT. One line of JSON per piece of work.
"use strict";

const assert = require("node:assert");
const { once } = require("node:events");
const amqp = require("amqplib");

const port = Number(process.argv[2]);
const url = { protocol: "amqp", hostname: "127.0.0.1", port, username: "guest", password: "guest", vhost: "/" };

// Resolves with the first COUNT messages of a queue, acknowledged as they come.
async function take(channel, queue, count, options = {}) {
  const found = [];
  let enough;
  const done = new Promise((resolve) => (enough = resolve));
  const { consumerTag } = await channel.consume(
    queue,
    (message) => {
      if (found.length === count) return;
      if (!options.noAck) channel.ack(message);
      if (found.push(message) === count) enough();
    },
    options,
  );
  await done;
  await channel.cancel(consumerTag);
  return found;
}

async function temporary(channel, options = {}) {
  return (await channel.assertQueue("", { exclusive: true, ...options })).queue;
}

const work = {
  async "declare, bind, publish, consume"(connection) {
    const channel = await connection.createChannel();
    await channel.assertExchange("node.topic", "topic", { autoDelete: true, durable: false });
    const queue = await temporary(channel);
    await channel.bindQueue(queue, "node.topic", "a.#");
    for (const key of ["a", "b", "a.b.c"]) channel.publish("node.topic", key, Buffer.from(key));
    const found = await take(channel, queue, 2);
    assert.deepStrictEqual(found.map((message) => message.content.toString()), ["a", "a.b.c"]);
    await channel.close();
  },

  async "confirms and mandatory returns"(connection) {
    const channel = await connection.createConfirmChannel();
    const queue = await temporary(channel);
    const returned = [];
    channel.on("return", (message) => returned.push(message.content.toString()));
    for (let number = 0; number < 500; number++) {
      channel.sendToQueue(queue, Buffer.from(String(number)), { mandatory: true });
      if (number % 100 === 0) {
        channel.publish("", "no.such.queue", Buffer.from(String(number)), { mandatory: true });
      }
    }
    await channel.waitForConfirms();
    assert.deepStrictEqual(returned, ["0", "100", "200", "300", "400"]);
    const found = await take(channel, queue, 500);
    assert.deepStrictEqual(found.map((message) => Number(message.content)), [...Array(500).keys()]);
    await channel.close();
  },

  async "the broker's own nacks"(connection) {
    const channel = await connection.createConfirmChannel();
    const queue = await temporary(channel, { maxLength: 1, arguments: { "x-overflow": "reject-publish" } });
    const publish = () =>
      new Promise((resolve) => channel.sendToQueue(queue, Buffer.from("x"), {}, (error) => resolve(error === null)));
    assert.deepStrictEqual([await publish(), await publish()], [true, false]);
    await channel.close();
  },

  async "get, ack, nack, reject"(connection) {
    const channel = await connection.createChannel();
    const queue = await temporary(channel);
    assert.strictEqual(await channel.get(queue), false);
    for (const text of ["1", "2", "3"]) channel.sendToQueue(queue, Buffer.from(text));
    while ((await channel.checkQueue(queue)).messageCount < 3);
    const [first, second, third] = [await channel.get(queue), await channel.get(queue), await channel.get(queue)];
    channel.ack(first);
    channel.nack(second, false, true);
    channel.reject(third, false);
    const [again] = await take(channel, queue, 1);
    assert.deepStrictEqual([again.content.toString(), again.fields.redelivered], ["2", true]);
    assert.strictEqual((await channel.deleteQueue(queue)).messageCount, 0);
    await channel.close();
  },

  async "prefetch"(connection) {
    const channel = await connection.createChannel();
    const queue = await temporary(channel);
    await channel.prefetch(3);
    for (let number = 0; number < 10; number++) channel.sendToQueue(queue, Buffer.from(String(number)));
    const held = [];
    const { consumerTag } = await channel.consume(queue, (message) => held.push(message));
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.strictEqual(held.length, 3);
    channel.ack(held[2], true);
    while (held.length < 6) await new Promise((resolve) => setTimeout(resolve, 10));
    await channel.cancel(consumerTag);
    channel.nackAll();
    assert.strictEqual((await take(channel, queue, 7)).length, 7);
    await channel.close();
  },

  async "properties"(connection) {
    const channel = await connection.createChannel();
    const queue = await temporary(channel);
    const headers = { text: "näïve ✓", number: 7, big: 2 ** 40, ratio: 0.1, list: [1, "two", { three: true }], none: null };
    const properties = {
      contentType: "application/json", contentEncoding: "identity", deliveryMode: 2, priority: 4, correlationId: "c",
      replyTo: "r", expiration: "60000", messageId: "m", timestamp: 1700000000, type: "t", userId: "guest", appId: "a",
    };
    channel.sendToQueue(queue, Buffer.from("x"), { ...properties, persistent: true, headers });
    const [found] = await take(channel, queue, 1);
    const { traceparent, tracestate, ...rest } = found.properties.headers;
    assert.deepStrictEqual(rest, headers);
    for (const [name, value] of Object.entries(properties)) assert.strictEqual(found.properties[name], value, name);
    await channel.close();
  },

  async "a mebibyte"(connection) {
    const channel = await connection.createConfirmChannel();
    const queue = await temporary(channel);
    const body = Buffer.alloc(1 << 20, "0123456789abcdef!");
    for (let number = 0; number < 4; number++) channel.sendToQueue(queue, body);
    await channel.waitForConfirms();
    for (const message of await take(channel, queue, 4)) assert(message.content.equals(body));
    await channel.close();
  },

  async "many channels"(connection) {
    const channels = await Promise.all(Array.from({ length: 100 }, () => connection.createChannel()));
    const queues = await Promise.all(channels.map((channel) => temporary(channel)));
    channels.forEach((channel, number) => channel.sendToQueue(queues[99 - number], Buffer.from(String(number))));
    const found = await Promise.all(channels.map((channel, number) => take(channel, queues[number], 1)));
    found.forEach(([message], number) => assert.strictEqual(Number(message.content), 99 - number));
    await Promise.all(channels.map((channel) => channel.close()));
  },

  async "direct reply-to"(connection) {
    const channel = await connection.createChannel();
    const queue = await temporary(channel);
    await channel.consume(queue, (message) => {
      channel.ack(message);
      channel.sendToQueue(message.properties.replyTo, Buffer.from(`${message.content}!`));
    });
    const answer = take(channel, "amq.rabbitmq.reply-to", 1, { noAck: true });
    await new Promise((resolve) => setTimeout(resolve, 50));
    channel.sendToQueue(queue, Buffer.from("hello"), { replyTo: "amq.rabbitmq.reply-to" });
    assert.strictEqual((await answer)[0].content.toString(), "hello!");
    await channel.close();
  },

  async "a channel's error is the channel's alone"(connection) {
    const channel = await connection.createChannel();
    const error = once(channel, "error");
    await assert.rejects(channel.checkQueue("no.such.queue"), /404 \(NOT-FOUND\)/);
    assert.strictEqual((await error)[0].code, 404);
    const other = await connection.createChannel();
    await temporary(other);
    await other.close();
  },

  async "closing right after publishing"(connection) {
    const watching = await connection.createChannel();
    const queue = (await watching.assertQueue("node.hurry", { durable: false })).queue;
    const hurried = await amqp.connect(url);
    const channel = await hurried.createChannel();
    for (let number = 0; number < 1000; number++) channel.sendToQueue(queue, Buffer.from(String(number)));
    await channel.close(); // on its channel, so behind the messages: a connection's close overtakes what amqplib holds
    await hurried.close();
    await watching.prefetch(100);
    assert.strictEqual((await take(watching, queue, 1000)).length, 1000);
    await watching.deleteQueue(queue);
    await watching.close();
  },

  async "a refused login"() {
    await assert.rejects(amqp.connect({ ...url, password: "wrong" }), /ACCESS_REFUSED|ACCESS-REFUSED|closed/);
  },
};

async function main() {
  const connection = await amqp.connect({ ...url, heartbeat: 30 });
  connection.on("error", (error) => console.error(error));
  for (const [name, run] of Object.entries(work)) {
    let problem = null;
    const timer = setTimeout(() => {
      console.log(JSON.stringify({ name, problem: "did not end" }));
      process.exit(1);
    }, 10000);
    try {
      await run(connection);
    } catch (error) {
      problem = String(error.stack || error);
    }
    clearTimeout(timer);
    console.log(JSON.stringify({ name, problem }));
  }
  await connection.close();
}

// node amqplib.cjs PORT idle SECONDS: a connection with heartbeats of a second that does nothing, then something.
async function idle(seconds) {
  const connection = await amqp.connect({ ...url, heartbeat: 1 });
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  await work["get, ack, nack, reject"](connection);
  await connection.close();
  console.log(JSON.stringify({ name: "idle", problem: null }));
}

(process.argv[3] === "idle" ? idle(Number(process.argv[4])) : main()).catch((error) => {
  console.log(JSON.stringify({ name: process.argv[3] || "connection", problem: String(error.stack || error) }));
  process.exit(1);
});
