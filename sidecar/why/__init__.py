"""Why a request failed: what is remembered of exchanges, the one sentence of cause, and the story over several hops."""
