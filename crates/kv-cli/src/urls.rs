//! `kv help urls`: how a store is named.

/// Everything a URL can say, for people.
pub(crate) const HELP: &str = "\
A store is named by a URL, after --store or in the variable KV_STORE:

  mem:                         memory; gone when kv ends
  sled:PATH                    a directory, for one process at a time
  etcd://HOST:2379/NAMESPACE   etcd
  consul://HOST:8500/NAMESPACE Consul
  zk://HOST:2181/NAMESPACE     ZooKeeper
  @NAME                        a context: kv context list

Several hosts are separated by commas, and the port can be left out. All keys
lie below NAMESPACE, which can be left out too. With +tls behind its name the
scheme uses TLS: etcd+tls://HOST. etcd:// and consul:// without a host take
host and credentials from the variables of etcdctl and consul.

USER@ or USER:PASSWORD@ stands before the hosts (etcd, ZooKeeper). In a user,
a password or a token write %2F for /, %3F for ?, %23 for #, %26 for & and
%40 for @; or keep the secret out of the URL: password_file=FILE,
password_env=VARIABLE, token_file=FILE, token_env=VARIABLE.

Parameters follow a ? and are separated by &: zk://HOST/app?timeout=5s&auth=sasl
Times are such as 500ms, 5s or 1m30s.

  timeout             deadline of each request (all stores)

  sled
    durability        process, power or interval: what a write survives
    flush_interval    how much time `interval` may lose
    verify            open or read: when records are checked
    cache_mib         memory for pages and entries
    wait              how long to wait for another process's directory
    lock_max_hold     the longest time a lock is held
    lock_ttl          as for a server; changes nothing here
  sled, mem
    history           how many changes a watch can go back
    namespace         all keys lie below it

  etcd, consul, zk
    connect_timeout   deadline of opening the store
    ca                file with the CAs to trust (with TLS)
    cert, key         files with the client's certificate and key (with TLS)
    plaintext_credentials
                      true: send passwords and tokens without TLS
  etcd
    password, password_file, password_env
    server_name       the name in the server's certificate, if not the host
    keep_alive        how often a silent connection is asked
    lock_ttl, session_ttl
                      how long locks and session keys outlive their process
  consul
    token, token_file, token_env
    datacenter        another one than the agent's
    server_name       the name in the server's certificate, if not the host
    danger_accept_invalid_certs
                      true: take any certificate
    lock_ttl, session_ttl
                      how long locks and session keys outlive their process
    lock_delay        how long a lost lock stays taken
    lock_layout       record (consul lock) or key (the key itself is held)
    max_calls         how many blocking queries at a time
    client            the HTTP client
  zk
    password, password_file, password_env
    auth              digest or sasl
    session_timeout   how long locks and session keys outlive their process
    max_session_timeout
                      the longest one the server grants
    ttl_sweep         how often the server looks for what has expired
    barrier_reads     true: each read goes through the leader
    lock_layout       curator or kazoo
    client            zookeeper-client (the default) or zookeeper-async
";

#[cfg(test)]
mod tests {
    use super::HELP;

    /// The stores themselves say what they take, in the error for a parameter they do not know.
    #[tokio::test]
    async fn every_parameter_of_every_store_is_told() {
        for url in ["mem:", "sled:/nowhere", "etcd://h", "etcd+tls://h", "consul://h", "zk://h", "zk+tls://h"]
        {
            let error = kv_any::open(&format!("{url}?no_such_parameter=1")).await.unwrap_err().to_string();
            let (_, known) = error.split_once("URLs take ").unwrap_or_else(|| panic!("{error}"));
            let known = known.split(';').next().unwrap_or_default();
            for name in known.split(", ").map(str::trim) {
                let told =
                    HELP.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
                assert!(told, "{name:?} of {url}: {error}");
            }
        }
    }

    #[test]
    fn lines_fit_a_terminal() {
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
