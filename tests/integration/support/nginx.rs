//! nginx as a backend, where it is installed.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::program::Service;
use super::{peer, within};

/// An nginx that ends with the test.
pub(crate) struct Nginx {
    service: Service,
}

impl Nginx {
    /// One with these `server` blocks, of which one listens on `port`; its files lie in `directory`. `None` where
    /// nginx is not installed.
    pub(crate) async fn start(directory: &Path, port: u16, servers: &str) -> Option<Self> {
        let nginx = peer("nginx")?;
        let prefix = directory.to_str().unwrap();
        let config = directory.join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\npid {prefix}/nginx.pid;\nerror_log {prefix}/error.log;\n\
             events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {prefix}/body;\n\
             proxy_temp_path {prefix}/proxy;\n fastcgi_temp_path {prefix}/fastcgi;\n\
             uwsgi_temp_path {prefix}/uwsgi;\n scgi_temp_path {prefix}/scgi;\n\
             default_type text/plain;\n{servers}\n}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let service = Service::start(nginx, &["-p", prefix, "-c", config.to_str().unwrap()]);
        within("nginx listens", async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        Some(Self { service })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.service.signal(signal);
    }
}
