// librabbitmq: it has no recovery, so its users connect anew in a loop; what was refused for its login is not tried again.
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static double now(void) { struct timeval t; gettimeofday(&t, NULL); return t.tv_sec + t.tv_usec / 1e6; }

// 0: fine, 1: worth another try. Does not return when the login was refused.
static int failed(amqp_rpc_reply_t reply, const char *what) {
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return 0;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
    amqp_connection_close_t *close = reply.reply.decoded;
    int refused = close->reply_code == 403;
    printf("%s %s: %d %.*s\n", refused ? "gone" : "fails", what, close->reply_code, (int)close->reply_text.len, (char *)close->reply_text.bytes);
    if (refused) exit(1);
  } else {
    printf("fails %s: %s\n", what, reply.library_error ? amqp_error_string2(reply.library_error) : "closed");
  }
  return 1;
}

static void session(int port, const char *queue) {
  char stamps[1024][24], body[32];
  unsigned long sent = 0, done = 0;
  amqp_bytes_t name = amqp_cstring_bytes(queue);
  amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  int status = amqp_socket_open(socket, "127.0.0.1", port);
  if (status) { printf("fails open: %s\n", amqp_error_string2(status)); goto end; }
  if (failed(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login")) goto end;
  amqp_channel_open(connection, 1);
  if (failed(amqp_get_rpc_reply(connection), "channel.open")) goto end;
  amqp_confirm_select(connection, 1);
  if (failed(amqp_get_rpc_reply(connection), "confirm.select")) goto end;
  amqp_queue_declare(connection, 1, name, 0, 1, 0, 0, amqp_empty_table);
  if (failed(amqp_get_rpc_reply(connection), "queue.declare")) goto end;
  amqp_basic_consume(connection, 1, name, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  if (failed(amqp_get_rpc_reply(connection), "basic.consume")) goto end;
  for (double due = now();; due += 0.1) {
    sprintf(stamps[++sent % 1024], "%.3f", now());
    status = amqp_basic_publish(connection, 1, amqp_empty_bytes, name, 0, 0, &properties, amqp_cstring_bytes(stamps[sent % 1024]));
    if (status) { printf("fails publish: %s\n", amqp_error_string2(status)); goto end; }
    for (double left; (left = due + 0.1 - now()) > 0;) {
      struct timeval wait = {0, left * 1e6};
      amqp_envelope_t envelope;
      amqp_frame_t frame;
      amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &wait, 0);
      if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
        snprintf(body, sizeof body, "%.*s", (int)envelope.message.body.len, (char *)envelope.message.body.bytes);
        printf("got %s\n", body);
        amqp_basic_ack(connection, 1, envelope.delivery_tag, 0);
        amqp_destroy_envelope(&envelope);
      } else if (reply.library_error == AMQP_STATUS_UNEXPECTED_STATE) {  // not a delivery: a confirm, or a close
        if (amqp_simple_wait_frame_noblock(connection, &frame, &wait)) continue;
        if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
          for (amqp_basic_ack_t *ack = frame.payload.method.decoded; done < ack->delivery_tag;) printf("ok %s\n", stamps[++done % 1024]);
        else if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_CONNECTION_CLOSE_METHOD) {
          amqp_connection_close_t *close = frame.payload.method.decoded;
          printf("fails closed: %d %.*s\n", close->reply_code, (int)close->reply_text.len, (char *)close->reply_text.bytes);
          goto end;
        }
      } else if (reply.library_error != AMQP_STATUS_TIMEOUT && failed(reply, "consume")) goto end;
    }
    amqp_maybe_release_buffers(connection);
  }
end:
  amqp_destroy_connection(connection);
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (;;) { session(atoi(arguments[1]), arguments[2]); sleep(1); }
}
