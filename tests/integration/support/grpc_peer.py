"""A client and a server of grpcio, without generated code: messages are plain bytes.

`server` prints its port and serves; `client PORT CA` asks through the proxy and says what passed.
"""

import concurrent.futures
import sys
import threading
import time

import grpc

OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]


def echo(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))),))
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100 %")


def sleep(request, context):
    for _ in range(100):
        if not context.is_active():
            break
        time.sleep(0.05)
    return b"late"


def serve():
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=120)
    server = grpc.server(pool, options=OPTIONS)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Peer", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def ask(port, authority):
    with open(authority, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(f"localhost:{port}", credentials, options=OPTIONS)
    unary = lambda name: channel.unary_unary(f"/peer.Peer/{name}")
    answer, call = unary("Echo").with_call(b"hello", timeout=10)
    assert answer == b"hello"
    assert ("x-length", "5") in call.trailing_metadata(), call.trailing_metadata()
    large = bytes(4 << 20)
    assert unary("Echo")(large, timeout=10) == large
    counted = list(channel.unary_stream("/peer.Peer/Count")(b"1000", timeout=10))
    assert counted == [str(number).encode() for number in range(1000)]
    pieces = (b"x" * 1000 for _ in range(1000))
    assert channel.stream_unary("/peer.Peer/Total")(pieces, timeout=10) == b"1000000"
    turn = threading.Semaphore(1)

    def words():
        for number in range(50):
            turn.acquire()
            yield f"word {number}".encode()

    for number, answer in enumerate(channel.stream_stream("/peer.Peer/Chat")(words(), timeout=10)):
        assert answer == f"WORD {number}".encode()
        turn.release()
    code, details = code_of(lambda: unary("Fail")(b"", timeout=10))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100 %"), (code, details)
    began = time.monotonic()
    code, _ = code_of(lambda: unary("Sleep")(b"", timeout=0.5))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
    assert time.monotonic() - began < 3
    code, _ = code_of(lambda: unary("Unknown")(b"", timeout=10))
    assert code == grpc.StatusCode.UNIMPLEMENTED, code
    futures = [unary("Echo").future(str(number).encode(), timeout=10) for number in range(100)]
    for number, future in enumerate(futures):
        assert future.result() == str(number).encode()
    print("all passed")


if sys.argv[1] == "server":
    serve()
else:
    ask(sys.argv[2], sys.argv[3])
