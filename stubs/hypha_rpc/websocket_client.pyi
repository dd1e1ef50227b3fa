RPC: type
