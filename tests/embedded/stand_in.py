"""Stands in for infinity_emb: takes its command line, and behaves as the last argument says.

While it serves it answers every request with its own process number and those of its children.
"""

import json
import os
import signal
import socket
import subprocess
import sys

LINES_OF_CHATTER = 5000


def main() -> None:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    match sys.argv[-1]:
        case "serve":
            serve(port, [])
        case "fail":
            sys.exit("RuntimeError: there is no such model\nERROR:    Application startup failed. Exiting.")
        case "chatter":
            for number in range(LINES_OF_CHATTER):
                print(f"line {number}", flush=True)
            sys.exit(1)
        case "ignore-sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            serve(port, [])
        case "have-children":
            serve(port, [child(), child(start_new_session=True)])


def child(start_new_session: bool = False) -> int:
    """A child that ignores SIGTERM and holds the output open; in its own session it also leaves the group."""
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=start_new_session
    )
    assert process.stdout is not None
    process.stdout.readline()  # It ignores SIGTERM from here on.
    return process.pid


def serve(port: int, children: list[int]) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    body = json.dumps({"pid": os.getpid(), "children": children}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    while True:
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65536)
            if b" /crash " in request:
                os.write(2, b"first line\nlast words\n")
                os._exit(3)
            if request:
                connection.sendall(head + body)


if __name__ == "__main__":
    main()
