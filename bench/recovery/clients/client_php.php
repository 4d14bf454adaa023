<?php
// php-amqplib: the loop of its own demo (connection_recovery_consume.php), which does not try again where it was refused.
require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPIOException;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;

[, $port, $queue] = $argv;

function say(string $word, string $about): void
{
    echo $word, ' ', preg_replace('/\s+/', ' ', $about), "\n";
}

while (true) {
    $connection = null;
    try {
        $connection = new AMQPStreamConnection('127.0.0.1', $port, 'guest', 'guest');
        $channel = $connection->channel();
        $channel->confirm_select();
        $channel->set_ack_handler(function (AMQPMessage $message) { say('ok', $message->getBody()); });
        $channel->set_nack_handler(function (AMQPMessage $message) { say('unsent', 'nack'); });
        $channel->queue_declare($queue, false, true, false, false);
        $channel->basic_consume($queue, '', false, false, false, false, function (AMQPMessage $message) {
            $message->ack();
            say('got', $message->getBody());
        });
        while (true) {
            $stamp = sprintf('%.3F', microtime(true));
            $channel->basic_publish(new AMQPMessage($stamp, ['delivery_mode' => 2]), '', $queue);
            $until = microtime(true) + 0.1;
            while (($left = $until - microtime(true)) > 0.001) {
                try {
                    $channel->wait(null, false, $left);
                } catch (AMQPTimeoutException $nothing) {
                }
            }
        }
    } catch (AMQPIOException | \RuntimeException | \ErrorException $error) {
        $about = get_class($error) . ': ' . $error->getCode() . ' ' . $error->getMessage();
        if ($error->getCode() === 403) {
            say('gone', $about);
            exit(1);
        }
        say('fails', $about);
        try {
            $connection?->close();
        } catch (\Exception $nothing) {
        }
        sleep(1);
    }
}
