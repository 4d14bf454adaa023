"""The configuration: one schema that describes every key, the loader, and the typed result.

A file becomes a configuration in four steps, each in a file of its own:

``document``     text to a tree of nodes that know their lines; bounds on size, depth and aliases
``environment``  ``${VAR}`` in single scalars, after parsing
``schema``       every key with its kind (``values``, ``containers``, …), default, range and doc line, as it was
                 declared beside its user: ``service``, ``traffic``, ``agent``, and the files of filters
``rules``        what spans several keys

``hints`` knows what was meant by what is wrong, ``cross_schema`` says of the rules what JSON Schema can.

``load`` runs them and gives either a :class:`~sidecar.config.schema.Config` or one
:class:`~sidecar.config.errors.ConfigError` with every problem in it. ``show`` goes the other way.
"""
