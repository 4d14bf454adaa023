"""The sidecar in a time of its own: virtual servers, clients and networks around the real data plane.

Everything that decides is the code that traffic runs through: ports are put together from a configuration as in the
agent, and requests are exchanges with filters, tries, a cluster and timers. Only the clock, the ends of connections
and what stands behind them are others. So an hour takes seconds, and a seed gives the same run again.

:mod:`~sidecar.simulate.world` has time and the network, :mod:`~sidecar.simulate.port` a sidecar's port,
:mod:`~sidecar.simulate.server` an app, :mod:`~sidecar.simulate.clients` those who ask,
:mod:`~sidecar.simulate.measure` what came of it. A scenario (:mod:`sidecar.simulate.scenarios`) is a short declaration
of these, and says what it found.
"""
