//! An S3 server on loopback for tests, and a proxy before it that makes trouble.
//!
//! The server is a program that [`SERVER_VARIABLE`] names, called as `PROGRAM -H HOST -p PORT`: moto's server. Credentials
//! and the endpoint come from the environment, so every test runs in a process of its own, which [`in_own_process`] starts.
//! This file needs nothing but the standard library; other test programs include it by its path.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Names the server program. Without it tests are skipped.
pub const SERVER_VARIABLE: &str = "OP_ENGINE_S3_SERVER";
/// What the tests' credentials are. Must never be seen anywhere.
pub const SECRET: &str = "hunter2hunter2hunter2hunter2hunter2hunter2";
/// The bucket that is there.
pub const BUCKET: &str = "attic";

/// The server gives objects to nobody without a signature, and believes any.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, \
                             SignedHeaders=host, Signature=0";
const PORT_VARIABLE: &str = "OP_ENGINE_S3_PROXY_PORT";
const TICK: Duration = Duration::from_millis(5);
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs a test in a process of its own, with the environment of a client, for `limit` at most. `test` is the name of the
/// calling test.
pub fn in_own_process(test: &str, limit: Duration, body: impl FnOnce(&S3)) {
    if let Some(port) = std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse().ok()) {
        return body(&S3::start(port));
    }
    if std::env::var_os(SERVER_VARIABLE).is_none() {
        eprintln!("skipped: {SERVER_VARIABLE} does not name an S3 server");
        return;
    }
    let port = free_port();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PORT_VARIABLE, port.to_string())
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "AKIAHUNTER2HUNTER2HU")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("AWS_SESSION_TOKEN")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{test}: {status}");
            return;
        }
        if began.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{test} took longer than {limit:?}");
        }
        std::thread::sleep(TICK);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Passes it on.
    None,
    /// Does not even take the connection.
    Refuse,
    /// Answers with this status itself.
    Status(u16),
    /// Refuses access, with all that the request said in the answer's text.
    Tell,
    /// Passes it on and cuts the answer off in the middle of its body.
    Cut,
    /// Passes it on and does not give back the answer.
    Lose,
    /// Answers nothing, until there is other trouble.
    Stall,
    /// Passes it on and stops in the middle of the answer's body, until there is other trouble.
    StallBody,
}

struct Plan {
    trouble: Trouble,
    /// How many requests are left for it.
    times: usize,
    /// What a request's first line holds that is meant.
    only: &'static str,
    /// The first lines of all requests.
    requests: Vec<String>,
    now: usize,
    most_at_once: usize,
    server: u16,
}

/// The proxy and the server behind it.
pub struct S3 {
    plan: Arc<Mutex<Plan>>,
    server: Mutex<Option<Child>>,
}

impl S3 {
    fn start(port: u16) -> Self {
        let plan = Plan {
            trouble: Trouble::None,
            times: usize::MAX,
            only: "",
            requests: Vec::new(),
            now: 0,
            most_at_once: 0,
            server: 0,
        };
        let s3 = Self { plan: Arc::new(Mutex::new(plan)), server: Mutex::default() };
        s3.start_server();
        let plan = Arc::clone(&s3.plan);
        std::thread::spawn(move || listen(port, &plan));
        s3.wait_for(port);
        s3
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    /// What happens to all requests from now on.
    pub fn set(&self, trouble: Trouble) {
        self.set_for(trouble, usize::MAX, "");
    }

    /// What happens to the next `times` requests whose first line holds `only`.
    pub fn set_for(&self, trouble: Trouble, times: usize, only: &'static str) {
        let mut plan = self.plan();
        (plan.trouble, plan.times, plan.only) = (trouble, times, only);
    }

    /// The first lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.plan().requests.clone()
    }

    /// How many requests were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.plan().most_at_once
    }

    /// Kills the server: all that it held is gone, the bucket too.
    pub fn stop_server(&self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            drop(server.stdin.take());
            server.wait().unwrap();
        }
    }

    /// Starts a server with the empty bucket.
    pub fn start_server(&self) {
        self.stop_server();
        let (program, port) = (std::env::var_os(SERVER_VARIABLE).unwrap(), free_port());
        // It goes with this process, whatever becomes of it: the pipe is closed then.
        let script =
            "\"$0\" -H 127.0.0.1 -p \"$1\" >/dev/null 2>&1 & read -r _; kill -9 $!; wait $! 2>/dev/null";
        let server = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        *self.server.lock().unwrap() = Some(server);
        self.plan().server = port;
        self.wait_for(port);
        let (head, _) = self.ask("PUT", &format!("/{BUCKET}"), b"");
        assert!(head.contains(" 200"), "{head}");
    }

    fn wait_for(&self, port: u16) {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < START_LIMIT, "nobody listens");
            std::thread::sleep(TICK);
        }
    }

    /// Asks the server behind the proxy's back. The answer's head and body.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> (String, Vec<u8>) {
        let server = self.plan().server;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\nAuthorization: {AUTHORIZATION}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = pass_on(server, &head, body).unwrap();
        let (head, body) = split(&answer);
        (String::from_utf8_lossy(head).into_owned(), body.to_vec())
    }

    /// How many uploads in parts the server has that are not finished.
    pub fn unfinished_uploads(&self) -> usize {
        let (head, body) = self.ask("GET", &format!("/{BUCKET}?uploads"), b"");
        assert!(head.contains(" 200"), "{head}");
        String::from_utf8_lossy(&body).matches("<UploadId>").count()
    }

    /// The names of all objects in the bucket.
    pub fn names(&self) -> Vec<String> {
        let (head, body) = self.ask("GET", &format!("/{BUCKET}?list-type=2"), b"");
        assert!(head.contains(" 200"), "{head}");
        let text = String::from_utf8_lossy(&body).into_owned();
        let keys = text.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop_server();
    }
}

fn listen(port: u16, plan: &Arc<Mutex<Plan>>) {
    let mut listener = None;
    loop {
        if plan.lock().unwrap().trouble == Trouble::Refuse {
            listener = None;
            std::thread::sleep(TICK);
            continue;
        }
        let open = listener.get_or_insert_with(|| {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        match open.accept() {
            Ok((client, _)) => {
                client.set_nonblocking(false).unwrap();
                let plan = Arc::clone(plan);
                // What fails here is a client or server that has gone.
                std::thread::spawn(move || drop(serve(client, &plan)));
            }
            Err(_) => std::thread::sleep(TICK),
        }
    }
}

/// Answers the one request of a connection.
fn serve(mut client: TcpStream, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let (head, body) = read_request(&mut client)?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let (trouble, server) = {
        let mut plan = plan.lock().unwrap();
        plan.now += 1;
        plan.most_at_once = plan.most_at_once.max(plan.now);
        let is_meant = plan.times > 0 && line.contains(plan.only);
        plan.requests.push(line);
        if is_meant && plan.times != usize::MAX {
            plan.times -= 1;
        }
        (if is_meant { plan.trouble } else { Trouble::None }, plan.server)
    };
    let served = answer(&mut client, plan, trouble, server, &head, &body);
    plan.lock().unwrap().now -= 1;
    served
}

fn answer(
    client: &mut TcpStream,
    plan: &Mutex<Plan>,
    trouble: Trouble,
    server: u16,
    head: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let wait = || {
        while plan.lock().unwrap().trouble == trouble {
            std::thread::sleep(TICK);
        }
    };
    let own = |status: u16, text: &str| {
        let text = format!("<Error><Code>Trouble</Code><Message>{text}</Message></Error>");
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    };
    match trouble {
        Trouble::None => client.write_all(&pass_on(server, head, body)?),
        Trouble::Refuse => Ok(()),
        Trouble::Status(status) => client.write_all(own(status, "on purpose").as_bytes()),
        Trouble::Tell => client.write_all(own(403, &format!("{SECRET} {head}")).as_bytes()),
        Trouble::Lose => pass_on(server, head, body).map(drop),
        Trouble::Stall => {
            wait();
            Ok(())
        }
        Trouble::Cut | Trouble::StallBody => {
            let answer = pass_on(server, head, body)?;
            let (head, body) = split(&answer);
            client.write_all(&answer[..head.len() + body.len() / 2])?;
            if trouble == Trouble::StallBody {
                wait();
            }
            Ok(())
        }
    }
}

fn read_request(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let (head, body) = split(&bytes);
        if !head.is_empty() {
            let head = String::from_utf8_lossy(head).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok((head, body.to_vec()));
            }
        }
        match client.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// A message's head, with its last empty line, and what follows it. The head is empty while it is not complete.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    message.split_at(end)
}

fn pass_on(server: u16, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = lines.map(|line| format!("{line}\r\n")).collect::<String>() + "Connection: close\r\n\r\n";
    server.write_all(head.as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}
