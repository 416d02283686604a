//! shim
use crate::config::plan::AccessLogPlan;
use std::io;
use std::rc::Rc;
#[derive(Debug)]
pub struct AccessLog;
#[derive(Debug)]
pub struct AccessLogHandle;
impl AccessLog {
    pub fn start(_: &AccessLogPlan) -> io::Result<Self> {
        Ok(Self)
    }
    pub fn handle(&self) -> AccessLogHandle {
        AccessLogHandle
    }
    pub fn reopen(&self) -> io::Result<()> {
        Ok(())
    }
    pub fn switch(&self, _: &AccessLogPlan) -> io::Result<()> {
        Ok(())
    }
    pub fn shutdown(&self) {}
}
impl AccessLogHandle {
    pub fn is_enabled(&self) -> bool {
        false
    }
    pub async fn flusher(self: Rc<Self>) {}
}
