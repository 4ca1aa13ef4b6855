//! The listeners: what is bound, what a reload adds and takes away, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::StartError;
use crate::admin::thread;
use crate::lifecycle::roll_call::{Calls, RollCall};
use crate::lifecycle::{InheritError, Inherited};
use crate::listen::farewell::Farewell;
use crate::listen::tls::{Loaded, Material};
use crate::listen::{Listener, Shared};
use crate::road::Road;
use crate::service;
use crate::settings::listen::{Listen, Timeouts, UnixSocket};
use crate::settings::tls::Tls;
use crate::workers::Workers;

/// The admin address's questions are short, and so is its patience.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// So long before the end of a drain no more is accepted; a third of a shorter one.
const LAST_CALL: Duration = Duration::from_secs(10);

/// Where the daemon listens, by what the configuration says of it.
#[derive(Debug, Clone)]
enum Place {
    Main(SocketAddr),
    Unix(UnixSocket),
    Tls(Tls),
    Admin(SocketAddr),
}

/// A socket that is bound, and accepts nothing yet.
#[derive(Debug)]
pub(super) struct Bound {
    place: Place,
    listener: Listener,
    /// The service manager holds it too.
    is_inherited: bool,
    material: Option<Arc<Material>>,
}

/// All listeners that accept.
#[derive(Debug)]
pub(super) struct Front {
    open: Vec<Open>,
    /// Taken away by a reload; their connections end one by one.
    leaving: Vec<Arc<watch::Sender<bool>>>,
    /// Listeners that take in the last ones before they close.
    closing: JoinSet<()>,
    road: Arc<ArcSwap<Road>>,
    main: Arc<Shared>,
    admin: Arc<Shared>,
    cut: watch::Sender<bool>,
    loops: Arc<RollCall>,
    workers: Arc<Workers>,
}

#[derive(Debug)]
struct Open {
    place: Place,
    name: String,
    is_inherited: bool,
    material: Option<Arc<Material>>,
    /// The accept loop, and what follows the certificate's files: that never ends by itself.
    tasks: JoinSet<()>,
    farewell: Arc<Farewell>,
    roll: u64,
}

/// What is open, for a reload that is being prepared.
#[derive(Debug, Default)]
pub(super) struct Standing(Vec<(Place, bool)>);

/// What a reload changes about the listeners.
#[derive(Debug)]
pub(super) struct Changes {
    new: Vec<Bound>,
    gone: Vec<Place>,
    /// For a TLS listener that stays where it is.
    tls: Option<Loaded>,
    timeouts: Timeouts,
}

/// Binds everything that the settings name, on sockets that were inherited or else on its own.
pub(super) fn bind(listen: &Listen, inherited: &mut Inherited) -> Result<Vec<Bound>, StartError> {
    places(listen).into_iter().map(|place| bind_one(place, inherited)).collect()
}

fn places(listen: &Listen) -> Vec<Place> {
    let main = listen.addresses.iter().copied().map(Place::Main);
    let unix = listen.unix_socket.iter().cloned().map(Place::Unix);
    let tls = listen.tls.iter().cloned().map(Place::Tls);
    main.chain(unix).chain(tls).chain([Place::Admin(listen.admin_address)]).collect()
}

fn bind_one(place: Place, inherited: &mut Inherited) -> Result<Bound, StartError> {
    let before = inherited.count();
    let mut material = None;
    let listener = match &place {
        Place::Main(address) | Place::Admin(address) => Listener::tcp(*address, inherited)?,
        Place::Unix(socket) => Listener::unix(socket, inherited)?,
        Place::Tls(tls) => {
            let loaded = Arc::new(Material::new(Loaded::read(tls.clone())?));
            material = Some(Arc::clone(&loaded));
            Listener::tls(tls.address, loaded, inherited)?
        }
    };
    Ok(Bound { place, listener, is_inherited: inherited.count() < before, material })
}

impl Bound {
    /// What was bound: `127.0.0.1:8790`, or the path.
    pub(super) fn name(&self) -> String {
        self.listener.name()
    }

    pub(super) fn is_admin(&self) -> bool {
        matches!(self.place, Place::Admin(_))
    }
}

impl Standing {
    /// Binds what is new, and reads the files of `[listen.tls]`, which may take its time. Nothing is closed yet. To be
    /// called within the runtime.
    ///
    /// # Errors
    /// What cannot be bound or read, or a socket of the service manager that the settings no longer name.
    pub(super) fn changes(self, listen: &Listen) -> Result<Changes, StartError> {
        let (mut left, mut new) = (self.0, Vec::new());
        let mut tls = None;
        for place in places(listen) {
            match left.iter().position(|(open, _)| open.is_at(&place)) {
                Some(at) => {
                    left.remove(at);
                    if let Place::Tls(settings) = place {
                        tls = Some(Loaded::read(settings)?);
                    }
                }
                // Nothing is bound while a file is waited for.
                None if matches!(place, Place::Tls(_)) => new.insert(0, place),
                None => new.push(place),
            }
        }
        if let Some((place, _)) = left.iter().find(|(_, is_inherited)| *is_inherited) {
            return Err(InheritError::Unnamed(place.to_string()).into());
        }
        let mut none = Inherited::default();
        let new = new.into_iter().map(|place| bind_one(place, &mut none)).collect::<Result<_, _>>()?;
        Ok(Changes { new, gone: left.into_iter().map(|(place, _)| place).collect(), tls, timeouts: listen.timeouts })
    }
}

impl Front {
    pub(super) fn new(
        road: Arc<ArcSwap<Road>>,
        main: Arc<Shared>,
        admin: Arc<Shared>,
        cut: watch::Sender<bool>,
        loops: Arc<RollCall>,
        workers: Arc<Workers>,
    ) -> Front {
        admin.set_timeouts(admin_timeouts(main.timeouts()));
        let (open, leaving, closing) = (Vec::new(), Vec::new(), JoinSet::new());
        Front { open, leaving, closing, road, main, admin, cut, loops, workers }
    }

    /// The accept loops, and whoever else is on their roll.
    pub(super) fn loops(&self) -> &Arc<RollCall> {
        &self.loops
    }

    /// Where requests may be sent to.
    pub(super) fn names(&self) -> Vec<&str> {
        let main = self.open.iter().filter(|open| !matches!(open.place, Place::Admin(_)));
        main.map(|open| open.name.as_str()).collect()
    }

    /// Begins to accept.
    ///
    /// # Errors
    /// The admin address gets no thread.
    pub(super) fn open(&mut self, bound: Bound) -> Result<(), StartError> {
        if bound.is_admin() {
            return self.open_admin(bound);
        }
        self.open_main(bound);
        Ok(())
    }

    fn open_admin(&mut self, bound: Bound) -> Result<(), StartError> {
        let (mut open, listener, calls) = self.enrolled(bound);
        let (road, cutting, farewells) = (Arc::clone(&self.road), self.cut.subscribe(), Arc::clone(&open.farewell));
        let workers = Arc::clone(&self.workers);
        let accepting = thread::serve(listener, Arc::clone(&self.admin), farewells, cutting, calls, road, workers);
        open.tasks.spawn(accepting.map_err(|error| {
            self.loops.remove(open.roll);
            StartError::AdminThread(error)
        })?);
        self.open.push(open);
        Ok(())
    }

    fn open_main(&mut self, bound: Bound) {
        let (mut open, listener, calls) = self.enrolled(bound);
        let (road, cutting, farewells) = (Arc::clone(&self.road), self.cut.subscribe(), Arc::clone(&open.farewell));
        let service = move |client, request| service::serve(road.load_full(), client, request);
        open.tasks.spawn(listener.serve(Arc::clone(&self.main), farewells, cutting, calls, service));
        if let Some(material) = open.material.clone() {
            open.tasks.spawn(material.follow());
        }
        self.open.push(open);
    }

    /// With a place on the roll of accept loops, and no loop yet.
    fn enrolled(&self, bound: Bound) -> (Open, Listener, Calls) {
        let Bound { place, listener, is_inherited, material } = bound;
        let (roll, calls) = self.loops.add();
        let (name, tasks, farewell) = (listener.name(), JoinSet::new(), Arc::default());
        (Open { place, name, is_inherited, material, tasks, farewell, roll }, listener, calls)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing(self.open.iter().map(|open| (open.place.clone(), open.is_inherited)).collect())
    }

    /// Opens the admin address that a reload adds, before anything else changes: nothing else of it can fail by then.
    ///
    /// # Errors
    /// The admin address gets no thread. What is open then is what was open before.
    pub(super) fn open_new_admin(&mut self, mut changes: Changes) -> Result<Changes, StartError> {
        if let Some(at) = changes.new.iter().position(Bound::is_admin) {
            let bound = changes.new.remove(at);
            let name = bound.name();
            self.open_admin(bound)?;
            tell_opened(&name);
        }
        Ok(changes)
    }

    /// Takes over what else a reload has prepared. New listeners accept only once the new road is there: by the former one,
    /// they could serve whom the new configuration refuses.
    pub(super) fn apply(&mut self, changes: Changes, road: Arc<Road>) {
        let Changes { new, gone, tls, timeouts } = changes;
        self.road.store(road);
        self.main.set_timeouts(timeouts);
        self.admin.set_timeouts(admin_timeouts(timeouts));
        if let (Some(loaded), Some(material)) = (tls, self.open.iter().find_map(|open| open.material.as_ref())) {
            material.exchange(loaded);
        }
        for bound in new {
            tell_opened(&bound.name());
            self.open_main(bound);
        }
        for place in gone {
            let Some(at) = self.open.iter().position(|open| open.place.is_at(&place)) else { continue };
            let name = self.close(at);
            tracing::info!(address = %name, "no longer listening here; connections that are there may finish");
        }
    }

    /// Waits until what reloads have taken away is closed: its address can be bound again then, and nobody comes in there any
    /// more.
    pub(super) async fn closed(&mut self) {
        while self.closing.join_next().await.is_some() {}
        self.leaving.retain(|told| !told.is_closed());
    }

    /// Accepts no more there, and says at which address that was.
    fn close(&mut self, at: usize) -> String {
        let open = self.open.remove(at);
        self.loops.remove(open.roll);
        self.let_close(open)
    }

    /// Whoever is connected already is served.
    fn let_close(&mut self, open: Open) -> String {
        let Open { name, mut tasks, farewell, .. } = open;
        self.leaving.push(farewell.close());
        self.closing.spawn(async move {
            tasks.join_next().await;
        });
        name
    }

    /// Lets all connections come to their ends, for as long as `timeout`. False if some have not.
    ///
    /// A socket that the service manager holds too is left at once: whoever connects waits there for the next daemon. Nobody
    /// would answer on the others, so they accept until the connections that were there have ended.
    pub(super) async fn drain(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        for open in self.open.iter_mut().filter(|open| open.is_inherited) {
            open.tasks.shutdown().await;
        }
        self.leaving.extend(self.open.iter().map(|open| open.farewell.say()));
        let _ = timeout_at(deadline - LAST_CALL.min(timeout / 3), self.all_have_left()).await;
        for open in std::mem::take(&mut self.open) {
            // The next daemon's socket must not be shut.
            if open.is_inherited {
                self.leaving.push(open.farewell.say());
            } else {
                self.let_close(open);
            }
        }
        let end = async {
            self.closed().await;
            self.all_have_left().await;
        };
        timeout_at(deadline, end).await.is_ok()
    }

    async fn all_have_left(&self) {
        for told in &self.leaving {
            told.closed().await;
        }
    }

    /// Drops the connections that are left.
    pub(super) fn cut(&self) {
        let _ = self.cut.send(true);
    }
}

fn tell_opened(name: &str) {
    tracing::info!(address = %name, "listening here too now");
}

fn admin_timeouts(timeouts: Timeouts) -> Timeouts {
    let short = |timeout: Duration| timeout.min(ADMIN_TIMEOUT);
    Timeouts { idle: short(timeouts.idle), header: short(timeouts.header), write: short(timeouts.write) }
}

impl Place {
    /// Whether the same socket serves both.
    fn is_at(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Main(one), Place::Main(other)) | (Place::Admin(one), Place::Admin(other)) => one == other,
            (Place::Unix(one), Place::Unix(other)) => one.path == other.path,
            (Place::Tls(one), Place::Tls(other)) => one.address == other.address,
            _ => false,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Main(address) | Place::Admin(address) => address.fmt(f),
            Place::Unix(socket) => socket.path.display().fmt(f),
            Place::Tls(tls) => tls.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
