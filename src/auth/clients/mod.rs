//! The clients that may authenticate, and what each may do.

mod file;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::bytes::digest_of;
use super::grant::Credentials;
use super::password::StoredPassword;
use super::scope::Permissions;
use crate::error::hinted;
use crate::secret::Secret;

/// What is known of a client.
pub struct Client {
    pub name: String,
    /// `None` for one without a password.
    pub password: Option<StoredPassword>,
    /// SHA-256 of its token.
    token_digest: Option<[u8; 32]>,
    pub permissions: Permissions,
}

/// All clients at a moment.
struct Clients {
    by_name: HashMap<String, Arc<Client>>,
    by_token: HashMap<[u8; 32], Arc<Client>>,
}

/// All clients: those of `--clients`, whose file SIGHUP reads again, and the one of the other settings.
pub struct RegisteredClients {
    /// May do everything.
    own: Arc<Client>,
    file: Option<PathBuf>,
    current: RwLock<Clients>,
}

/// The name of the client of `--token-file`, if `--username` gives none. No client of a file has it.
const OWN_NAME: &str = "";

impl RegisteredClients {
    /// # Errors
    /// The file of clients cannot be used.
    pub fn load(
        credentials: Option<&Credentials>,
        token: Option<&Secret>,
        file: Option<PathBuf>,
    ) -> anyhow::Result<RegisteredClients> {
        let own = Arc::new(Client {
            name: credentials.map_or(OWN_NAME, |credentials| &credentials.username).to_owned(),
            password: credentials.map(StoredPassword::of).transpose()?,
            token_digest: token.map(|token| digest_of(token.expose())),
            permissions: Permissions::all(),
        });
        let current = RwLock::new(Clients::new(&own, file.as_ref())?);
        Ok(RegisteredClients { own, file, current })
    }

    /// Reads the file again. After an error the previous clients stay.
    pub fn reload(&self) -> anyhow::Result<()> {
        let clients = Clients::new(&self.own, self.file.as_ref())?;
        *self.current.write() = clients;
        Ok(())
    }

    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The client of the settings other than `--clients`.
    pub fn own(&self) -> Arc<Client> {
        Arc::clone(&self.own)
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<Client>> {
        self.current.read().by_name.get(name).cloned()
    }

    /// The time that it takes to find a digest reveals nothing of use about the token.
    pub fn by_token(&self, token: &str) -> Option<Arc<Client>> {
        self.current.read().by_token.get(&digest_of(token)).cloned()
    }

    /// The password of any client: checking it takes as long as that of another.
    pub fn any_password(&self) -> Option<StoredPassword> {
        let current = self.current.read();
        self.own
            .password
            .clone()
            .or_else(|| current.by_name.values().find_map(|client| client.password.clone()))
    }
}

impl Clients {
    fn new(own: &Arc<Client>, file: Option<&PathBuf>) -> anyhow::Result<Clients> {
        let mut clients = Clients { by_name: HashMap::new(), by_token: HashMap::new() };
        let listed = file.map(|path| file::read(path)).transpose()?.unwrap_or_default();
        for client in [Arc::clone(own)].into_iter().chain(listed.into_iter().map(Arc::new)) {
            if let Some(digest) = client.token_digest
                && let Some(other) = clients.by_token.insert(digest, Arc::clone(&client))
            {
                let problem =
                    format!("the clients `{}` and `{}` have the same token", other.name, client.name);
                return Err(hinted(problem, "give each a token of its own"));
            }
            if let Some(other) = clients.by_name.insert(client.name.clone(), client) {
                let problem = format!("two clients have the name `{}`", other.name);
                return Err(hinted(problem, "a client of --clients needs another name than --username"));
            }
        }
        Ok(clients)
    }
}
