"""The control room: what the admin of a running server sees and does, and what is counted for monitoring.

bioengine status, ps, unload, cancel  ->  a Unix socket in the run dir  ->  app -> overview -> the dispatcher's jobs and models
GET /metrics, the log of requests     <-  what is told at the end of each request
"""
