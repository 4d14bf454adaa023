# bunny with its automatic recovery, which is on by default.
require "bunny"
require "logger"
$stdout.sync = true
PORT, QUEUE = ARGV
def say(word, about) = puts("#{word} #{about.to_s.gsub(/\s+/, ' ')}")

# What the library says of its own tries.
logger = Logger.new($stdout, level: Logger::WARN, formatter: ->(_level, _time, _name, text) { "fails #{text.gsub(/\s+/, ' ')}\n" })
# What a thread publishes while another one recovers goes into the handshake, and the broker hangs up: so it waits.
recovering = false
hooks = { recovery_attempt_started: -> { recovering = true }, recovery_completed: -> { recovering = false } }
begin
  connection = Bunny.new(host: "127.0.0.1", port: PORT.to_i, logger: logger, **hooks)
  connection.start
rescue Bunny::TCPConnectionFailed, AMQ::Protocol::EmptyResponseError, Timeout::Error, SystemCallError => error # as its recovery does
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
    sleep 0.1
    next if recovering
    stamp = Time.now.to_f.to_s
    begin
      sent[channel.next_publish_seq_no] = stamp
      channel.default_exchange.publish(stamp, routing_key: QUEUE, persistent: true)
    rescue Bunny::Exception, SystemCallError, IOError => error
      say "unsent", error.inspect
    end
  end
rescue StandardError => error
  say "gone", error.inspect
end
