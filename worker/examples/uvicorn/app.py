# revenant run -- python3 app.py
# The same by uvicorn's own command, uvicorn --fd 3 app:app, drops requests that are on
# their way over connections which uvicorn takes for idle, when it is asked to leave.
import asyncio
import socket

import uvicorn


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"6")]
    if server.should_exit:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n"})


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for listener in self.servers:
            listener.close()
        for _ in range(50):  # for 5 s: longer than clients keep a connection that is idle
            await asyncio.sleep(0.1)
            if not self.server_state.connections:
                break
        await super().shutdown(sockets)


server = Server(uvicorn.Config(app))
if __name__ == "__main__":
    server.run([socket.socket(fileno=3)])  # the first of LISTEN_FDS
