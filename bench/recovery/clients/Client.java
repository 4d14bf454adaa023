import com.rabbitmq.client.*;
import java.util.SortedMap;
import java.util.concurrent.ConcurrentSkipListMap;

/** The Java client with its automatic recovery, which is on by default. */
public class Client {
    static synchronized void say(String word, Object about) {
        System.out.println(word + " " + String.valueOf(about).replaceAll("\\s+", " "));
    }

    static Connection connect(ConnectionFactory factory) throws Exception {
        while (true) {
            try {
                return factory.newConnection();
            } catch (PossibleAuthenticationFailureException error) {
                say("gone", error);
                System.exit(1);
            } catch (java.io.IOException | java.util.concurrent.TimeoutException error) {
                say("fails", error);
                Thread.sleep(1000);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        String queue = arguments[1];
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(arguments[0]));
        factory.setExceptionHandler(new com.rabbitmq.client.impl.DefaultExceptionHandler() {
            @Override
            public void handleConnectionRecoveryException(Connection connection, Throwable error) {
                say("fails", error);
            }
        });
        Channel channel = connect(factory).createChannel();
        SortedMap<Long, String> sent = new ConcurrentSkipListMap<>();
        channel.confirmSelect();
        channel.addConfirmListener((tag, multiple) -> {
            SortedMap<Long, String> done = multiple ? sent.headMap(tag + 1) : sent.subMap(tag, tag + 1);
            done.values().forEach(stamp -> say("ok", stamp));
            done.clear();
        }, (tag, multiple) -> say("unsent", "nack"));
        channel.queueDeclare(queue, true, false, false, null);
        channel.basicConsume(queue, false, (tag, delivery) -> {
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            say("got", new String(delivery.getBody()));
        }, tag -> {});
        while (true) {
            String stamp = String.valueOf(System.currentTimeMillis() / 1000.0);
            try {
                sent.put(channel.getNextPublishSeqNo(), stamp);
                channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, stamp.getBytes());
            } catch (AlreadyClosedException | java.io.IOException error) {
                say("unsent", error);
            }
            Thread.sleep(100);
        }
    }
}
