"""What the sidecar knows of servers that run language models, as Ollama and those with OpenAI's API: sans-I/O.

The words of this package, as in the docstring of ``sidecar``.

asked model               the model that a request is for, by a field of its body, a header or its path
event stream              an answer of server-sent events, text/event-stream, each with an empty line behind it
fair                      of a queue: none of those who ask can starve the others
LLM                       a large language model, and a server that runs some
loaded                    of a model: it is in a server's memory, so that an answer begins at once
loaded first              of a choice of servers: those that have the model, before those that have to load it
token                     a piece of text, as a model makes one after the other
usage                     what an answer says of itself: how many tokens it has
"""
