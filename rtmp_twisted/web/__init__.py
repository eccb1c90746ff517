"""HTTP for the people who operate the server: health, metrics, and an API that shows and ends publishes.

Only tap.py imports these modules, and only when HTTP_PORT is set: they bring twisted.web and prometheus_client. A
module here may import the rooms above it (``wire/``, ``media/``, ``live/``, ``rtmp/``) but not ``integrations/``. It
only reads what other rooms count anyway, through status.py. The one thing it changes: it ends publishes, through
``ICommandTarget``.
"""
