"""pyotritonclient for `program.py`: it speaks to Triton behind the server, with the arguments of the service."""

import functools

import pyotritonclient

DISTRIBUTION = "pyotritonclient"


def connect_to_server(config):
    return Server(f"{config['server_url']}/triton")


class Server:
    def __init__(self, url):
        self.execute = functools.partial(pyotritonclient.execute, server_url=url)
        self.get_config = functools.partial(pyotritonclient.get_config, url)

    def get_service(self, id):
        return self

    def disconnect(self):
        pass
