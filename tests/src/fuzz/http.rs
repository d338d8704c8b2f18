//! Requests to the daemon's server.

use std::sync::{Arc, LazyLock};

use monitor::fuzz;
use monitor::http::Site;
use tokio::runtime::{Builder, Runtime};

/// A site that needs no kernel programs.
struct Fixed;

impl Site for Fixed {
    fn metrics(&self) -> Result<String, String> {
        Ok("peerwatch_up 1\n".to_owned())
    }

    fn status(&self, _: bool) -> Result<String, String> {
        Err("no status here".to_owned())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The longest stream that is tried: the server takes request after request, each in the same way.
const LONGEST: usize = 64 * 1024;
/// Room on the way to the client, bytes.
const ROOM: usize = 64 * 1024;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
});

/// Everything that a client sends on one connection.
///
/// # Panics
///
/// Where what comes back is not HTTP, or far more than was asked for.
pub fn http_server(data: &[u8]) {
    let request = data[..data.len().min(LONGEST)].to_vec();
    let requests = 1 + request.windows(4).filter(|w| w == b"\r\n\r\n").count();
    let requests = requests + request.windows(2).filter(|w| w == b"\n\n").count();
    let answer = RUNTIME.block_on(fuzz::http(request, Arc::new(Fixed), ROOM));
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "{answer:?}"
    );
    // The longest answer gives 200 characters of the path back.
    assert!(answer.len() <= requests * 2048, "{} bytes", answer.len());
}
