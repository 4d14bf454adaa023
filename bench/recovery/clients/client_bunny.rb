# bunny with its automatic recovery, which is on by default.
require "bunny"
require "logger"
$stdout.sync = true
PORT, QUEUE = ARGV
def say(word, about) = puts("#{word} #{about.to_s.gsub(/\s+/, ' ')}")

# What the library says of its own tries.
logger = Logger.new($stdout, level: Logger::WARN, formatter: ->(_level, _time, _name, text) { "fails #{text.gsub(/\s+/, ' ')}\n" })
begin
  connection = Bunny.new(host: "127.0.0.1", port: PORT.to_i, logger: logger)
  connection.start
rescue Bunny::TCPConnectionFailed, Timeout::Error, SystemCallError => error
  say "fails", error.inspect
  sleep 1
  retry
rescue Bunny::Exception => error # an authentication failure, or a possible one
  say "gone", error.inspect
  exit 1
end

channel = connection.create_channel
sent = {}
channel.confirm_select(lambda { |tag, _multiple, nack| stamp = sent.delete(tag); say(nack ? "unsent" : "ok", stamp) if stamp })
queue = channel.queue(QUEUE, durable: true)
queue.subscribe(manual_ack: true) do |delivery, _properties, body|
  channel.ack(delivery.delivery_tag)
  say "got", body
end

begin
  loop do
    stamp = Time.now.to_f.to_s
    begin
      sent[channel.next_publish_seq_no] = stamp
      channel.default_exchange.publish(stamp, routing_key: QUEUE, persistent: true)
    rescue Bunny::Exception, SystemCallError, IOError => error
      say "unsent", error.inspect
    end
    sleep 0.1
  end
rescue StandardError => error
  say "gone", error.inspect
end
