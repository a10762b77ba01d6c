//! The thread that listens.
//!
//! It waits for nobody but its clients and keeps no worker waiting: answers are made from counters.
//! A client has a few seconds for its request and as many for its answer, each connection serves one
//! request, and connections beyond the limit wait in the system's queue.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::{Answer, Routes};

/// So many connections are served at once.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(3);
/// How long a connection lives at most.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How many bytes of a request are held at most.
const REQUEST_BYTES: usize = 16 << 10;
/// How long to wait before the next look when the system gives no connection (no descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address`, with port 0 at any that is free, and says what `routes` say.
    ///
    /// # Errors
    /// When the address is not one of this host, is taken, or the system gives no thread.
    pub fn start(address: impl ToSocketAddrs, routes: Routes) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener);
                if let Ok(listener) = listener {
                    tokio::spawn(accept(listener, Arc::new(routes)));
                }
                // An error: the handle is gone, which means the same.
                let _ = stopped.await;
            });
        };
        let builder = std::thread::Builder::new().name("http".to_owned());
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(builder.spawn(serve)?),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    /// Cuts off whoever is being served.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was shown.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, routes: Arc<Routes>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let routes = Arc::clone(&routes);
        tokio::spawn(async move {
            serve(stream, &routes).await;
            drop(place);
        });
    }
}

/// Serves one request. What goes wrong is the client's business.
async fn serve(stream: TcpStream, routes: &Routes) {
    let answer = |request: Request<Incoming>| {
        let answer = routes.answer(request.method().as_str(), request.uri().path());
        ready(Ok::<_, Infallible>(response(answer)))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(REQUEST_BYTES)
        .half_close(true)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let _ = timeout(CONNECTION_TIME, connection).await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(answer.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use super::super::Route;
    use super::*;

    fn server() -> Server {
        let routes = vec![
            Route::new("/metrics", "numbers", || Answer::text(200, "up 1")),
            Route::new("/long", "more than sockets hold", || {
                Answer::text(200, "x".repeat(8 << 20))
            }),
            Route::new("/panic", "a defect", || panic!("as asked for by the test")),
        ];
        Server::start("127.0.0.1:0", Routes::new(routes)).expect("a free port")
    }

    fn connect(server: &Server) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(server.address()).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a socket");
        stream
    }

    fn ask(server: &Server, request: &[u8]) -> String {
        let mut stream = connect(server);
        // It may have answered before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    const GET: &[u8] = b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn it_answers_get_and_head_and_closes_the_connection() {
        let server = server();
        let get = ask(&server, GET);
        assert!(get.starts_with("HTTP/1.1 200"), "{get}");
        assert!(get.ends_with("\r\n\r\nup 1\n"), "{get}");
        let head = ask(&server, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-length: 5"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
        let post = ask(
            &server,
            b"POST /metrics HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc",
        );
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        assert!(post.contains("allow: GET, HEAD"), "{post}");
        let other = ask(&server, b"GET /else HTTP/1.0\r\n\r\n");
        assert!(
            other.starts_with("HTTP/1.0 404") && other.contains("/metrics  numbers"),
            "{other}"
        );
    }

    #[test]
    fn garbage_panics_and_clients_that_go_away_do_not_end_it() {
        let server = server();
        for garbage in [
            &b"\0\xff\xfe\r\n\r\n"[..],
            b"GET\r\n\r\n",
            b"GET /metrics HTTP/9.9\r\n\r\n",
            b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n",
        ] {
            assert!(!ask(&server, garbage).contains(" 200 "));
        }
        let long = [b"GET /metrics HTTP/1.1\r\nx: ", &vec![b'y'; 1 << 20][..]].concat();
        assert!(ask(&server, &long).starts_with("HTTP/1.1 431"));
        for _ in 0..20 {
            let mut gone = connect(&server);
            gone.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
                .expect("sent");
        }
        let mut half = connect(&server);
        half.write_all(GET).expect("sent");
        half.shutdown(Shutdown::Write).expect("a socket");
        let mut answer = String::new();
        half.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("up 1\n"), "{answer}");
    }

    #[test]
    fn clients_that_send_nothing_or_read_nothing_are_cut_off() {
        let server = server();
        let silent: Vec<_> = (0..MOST_CONNECTIONS / 2)
            .map(|_| connect(&server))
            .collect();
        let mut deaf: Vec<_> = (0..MOST_CONNECTIONS / 2)
            .map(|_| connect(&server))
            .collect();
        for client in &mut deaf {
            client
                .write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
                .expect("sent");
        }
        // All places are taken, and these clients never leave by themselves.
        assert!(ask(&server, GET).ends_with("up 1\n"));
        drop((silent, deaf));
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_and_is_free_afterwards() {
        let server = server();
        let address = server.address();
        let again = Server::start(address, Routes::new(Vec::new()));
        assert_eq!(again.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        assert!(ask(&server, GET).ends_with("up 1\n"));
        drop(server);
        Server::start(address, Routes::new(Vec::new())).expect("free again");
    }
}
