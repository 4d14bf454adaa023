"""Which answers may be kept, for how long, and for whom (RFC 9111): bytes in, verdicts out, time as an argument."""
