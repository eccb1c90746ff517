"""HTTP: the public site, where browsers and HTTP players watch (watch.py), and the operators', with health, metrics,
and an API that shows and ends publishes (operators.py). Two sites on two ports, with the same bounds (site.py).

Only tap.py imports these modules, and only when their port is set: they bring twisted.web, and some prometheus_client
or autobahn. A module here may import the rooms above it (``wire/``, ``media/``, ``live/``, ``rtmp/``) but not
``integrations/``. The operators' site only reads what other rooms count anyway, through status.py. The one thing it
changes: it ends publishes, through ``ICommandTarget``.
"""
