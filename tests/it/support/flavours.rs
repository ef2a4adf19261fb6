//! The CRMs that the simulator plays beside the contract's: where they are, and the names of their fields.

/// One of them.
pub(crate) struct Flavour {
    pub(crate) name: &'static str,
    /// What follows the CRM's mount at the simulator.
    pub(crate) base: &'static str,
    object: &'static str,
    fields: [&'static str; 7],
    /// Method and path of a change.
    pub(crate) changes: &'static str,
    /// Status of a change that was made from an older reading; `None` where the last write wins.
    pub(crate) refuses: Option<u16>,
    /// Statuses of a creation and a change.
    pub(crate) done: [u16; 2],
}

pub(crate) const ZENDESK: Flavour = Flavour {
    name: "zendesk",
    base: "/api/v2",
    object: "",
    fields: ["", "9001", "9002", "9003", "9004", "9005", "9006"],
    changes: "PUT",
    refuses: Some(409),
    done: [201, 200],
};

pub(crate) const SALESFORCE: Flavour = Flavour {
    name: "salesforce",
    base: "",
    object: "Social_Thread__c",
    fields: [
        "Thread_Id__c",
        "Parent_Thread_Id__c",
        "Status__c",
        "Source_Version__c",
        "Source_Updated_At__c",
        "Messages__c",
        "Participants__c",
    ],
    changes: "PATCH",
    refuses: Some(412),
    done: [201, 204],
};

pub(crate) const HUBSPOT: Flavour = Flavour {
    name: "hubspot",
    base: "",
    object: "social_threads",
    fields: [
        "thread_id",
        "parent_thread_id",
        "status",
        "source_version",
        "source_updated_at",
        "messages",
        "participants",
    ],
    changes: "PATCH",
    refuses: None,
    done: [201, 200],
};

pub(crate) const DATAVERSE: Flavour = Flavour {
    name: "dataverse",
    base: "",
    object: "bh_socialthreads",
    fields: [
        "bh_threadid",
        "bh_parentthreadid",
        "bh_status",
        "bh_sourceversion",
        "bh_sourceupdatedat",
        "bh_messages",
        "bh_participants",
    ],
    changes: "PATCH",
    refuses: Some(412),
    done: [204, 204],
};

pub(crate) const FLAVOURS: [Flavour; 4] = [ZENDESK, SALESFORCE, HUBSPOT, DATAVERSE];

impl Flavour {
    /// Lines of `[crm]`; `more` are lines of `[crm.record]`.
    pub(crate) fn profile(&self, more: &str) -> String {
        const MEMBERS: [&str; 7] =
            ["threadId", "parentThreadId", "status", "sourceVersion", "updatedAt", "messages", "participants"];
        let named = MEMBERS.iter().zip(self.fields).filter(|(_, field)| !field.is_empty());
        let fields: Vec<String> = named.map(|(member, field)| format!("{member} = \"{field}\"")).collect();
        let object = if self.object.is_empty() { String::new() } else { format!("object = \"{}\"", self.object) };
        format!("flavour = \"{}\"\n[crm.record]\n{object}\n{more}\nfields = {{ {} }}\n", self.name, fields.join(", "))
    }

    /// The method that makes a record.
    pub(crate) fn creates(&self) -> &'static str {
        if self.name == "dataverse" { "PATCH" } else { "POST" }
    }
}
