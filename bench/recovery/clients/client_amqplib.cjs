// npm's amqplib, which has no recovery of its own: the loop that its users write around it.
"use strict";
const amqp = require("amqplib");
const port = Number(process.argv[2]), queue = process.argv[3];
const say = (word, about) => console.log(word, String(about).replace(/\s+/g, " "));

async function start() {
  let connection, timer;
  try {
    connection = await amqp.connect(`amqp://guest:guest@127.0.0.1:${port}/`);
  } catch (error) {
    say("fails", error);
    return setTimeout(start, 1000);
  }
  connection.on("error", (error) => say("fails", error));
  connection.on("close", () => {
    clearInterval(timer);
    setTimeout(start, 1000);
  });
  try {
    const channel = await connection.createConfirmChannel();
    channel.on("error", (error) => say("fails", error));
    await channel.assertQueue(queue, { durable: true });
    await channel.consume(queue, (message) => {
      if (message === null) return say("fails", "consumer cancelled");
      channel.ack(message);
      say("got", message.content);
    });
    timer = setInterval(() => {
      const stamp = String(Date.now() / 1000);
      try {
        channel.sendToQueue(queue, Buffer.from(stamp), { persistent: true }, (error) =>
          error ? say("unsent", error) : say("ok", stamp),
        );
      } catch (error) {
        say("unsent", error);
      }
    }, 100);
  } catch (error) {
    say("fails", error);
  }
}

start();
