"""What an AMQP port shows of itself: plain data for the admin API, the command line and the metrics."""
