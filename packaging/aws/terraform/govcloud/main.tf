# bedrock-sidecar in GovCloud: the table of requests, the secret that holds the commercial credential, the table of the
# fleet's limits, and the policies of hosts and auditors. The secret's value is set by hand, so that it never stands in a
# state file.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "table_name" {
  description = "audit.table of the daemon's configuration."
  type        = string
  default     = "cross-partition-requests"
}

variable "secret_name" {
  description = "credentials.secret_id of the daemon's configuration."
  type        = string
  default     = "cross-partition-commercial-creds"
}

variable "kms_key_arn" {
  description = "A customer managed key for tables and secret; null for the keys that AWS manages."
  type        = string
  default     = null
}

variable "point_in_time_recovery" {
  type    = bool
  default = true
}

variable "time_shard_index" {
  description = "An index that answers questions to the fleet newest first, and serves the verification of a host. It adds a write per record, and takes about 16,000 records a second of a fleet, 4,000 of a host."
  type        = bool
  default     = false
}

variable "timestamp_index" {
  description = "The former index, for tables that have it. All items share its partition key, which holds a fleet to about 1,000 records a second; it adds a write per record."
  type        = bool
  default     = false
}

variable "fleet_table" {
  description = "fleet.table of the daemon's configuration, usually bedrock-sidecar-fleet; null if no hosts keep limits together."
  type        = string
  default     = null
}

variable "anchor_bucket" {
  description = "audit.anchor.bucket of the daemon's configuration, a bucket that exists; null if no anchors go to S3. The module anchors makes one."
  type        = string
  default     = null
}

variable "anchor_prefix" {
  description = "audit.anchor.prefix of the daemon's configuration, without a slash at its end."
  type        = string
  default     = ""
}

variable "invoke_models" {
  description = "Whether hosts may invoke Bedrock's models in GovCloud, for an upstream with credentials = { source = \"host\" }."
  type        = bool
  default     = false
}

variable "create_profiles" {
  description = "Whether such hosts may create application inference profiles in GovCloud, for models that can be invoked through such a one only. If false, set models.create_profiles = false in the daemon's configuration."
  type        = bool
  default     = true
}

variable "use_mantle" {
  description = "Whether such hosts may also use bedrock-mantle, Bedrock's second inference host, in GovCloud, with mantle.enabled = true in the daemon's configuration. It does nothing unless invoke_models is true."
  type        = bool
  default     = false
}

variable "host_role_name" {
  description = "A role of EC2 instances that gets the host policy attached; null to attach it yourself."
  type        = string
  default     = null
}

data "aws_region" "here" {}

data "aws_partition" "here" {}

data "aws_caller_identity" "here" {}

locals {
  own_key = var.kms_key_arn != null
  bedrock = "arn:${data.aws_partition.here.partition}:bedrock:*"
  account = data.aws_caller_identity.here.account_id
  # The hash key of each index by time, by the index's name.
  time_indexes = merge(
    var.time_shard_index ? { by-time-shard = "timeShard" } : {},
    var.timestamp_index ? { by-timestamp = "sourcePartition" } : {},
  )
}

resource "aws_dynamodb_table" "requests" {
  name                        = var.table_name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "requestId"
  range_key                   = "timestamp"
  deletion_protection_enabled = true

  attribute {
    name = "requestId"
    type = "S"
  }

  attribute {
    name = "timestamp"
    type = "S"
  }

  dynamic "attribute" {
    for_each = local.time_indexes
    content {
      name = attribute.value
      type = "S"
    }
  }

  dynamic "global_secondary_index" {
    for_each = local.time_indexes
    content {
      name            = global_secondary_index.key
      hash_key        = global_secondary_index.value
      range_key       = "timestamp"
      projection_type = "ALL"
    }
  }

  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  dynamic "server_side_encryption" {
    for_each = local.own_key ? [var.kms_key_arn] : []
    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }
}

# It holds leases that last minutes: nothing to keep, to expire or to restore.
resource "aws_dynamodb_table" "fleet" {
  count        = var.fleet_table == null ? 0 : 1
  name         = var.fleet_table
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "id"

  attribute {
    name = "id"
    type = "S"
  }

  dynamic "server_side_encryption" {
    for_each = local.own_key ? [var.kms_key_arn] : []
    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }
}

resource "aws_secretsmanager_secret" "commercial" {
  name        = var.secret_name
  description = "The commercial Bedrock credential that bedrock-sidecar uses."
  kms_key_id  = var.kms_key_arn
}

data "aws_iam_policy_document" "host" {
  statement {
    sid       = "ReadTheCommercialCredential"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.commercial.arn]
  }

  statement {
    sid       = "ShipRecords"
    actions   = ["dynamodb:BatchWriteItem", "dynamodb:PutItem"]
    resources = [aws_dynamodb_table.requests.arn]
  }

  statement {
    sid = "LookAtTheTable"
    actions = [
      "dynamodb:DescribeTable",
      "dynamodb:DescribeTimeToLive",
      "dynamodb:DescribeContinuousBackups",
    ]
    resources = [aws_dynamodb_table.requests.arn]
  }

  dynamic "statement" {
    for_each = aws_dynamodb_table.fleet
    content {
      sid = "KeepTheLimitsOfTheFleet"
      actions = [
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
        "dynamodb:Scan",
      ]
      resources = [statement.value.arn]
    }
  }

  dynamic "statement" {
    for_each = var.invoke_models ? [1] : []
    content {
      sid     = "InvokeModels"
      actions = ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream", "bedrock:CountTokens"]
      resources = [
        "${local.bedrock}::foundation-model/*",
        "${local.bedrock}:${local.account}:inference-profile/us-gov.*",
        "${local.bedrock}:${local.account}:application-inference-profile/*",
      ]
    }
  }

  dynamic "statement" {
    for_each = var.invoke_models ? [1] : []
    content {
      sid = "FindModels"
      # These know no resource in IAM.
      actions = [
        "bedrock:ListFoundationModels",
        "bedrock:ListInferenceProfiles",
        "bedrock:GetAccountDataRetention",
      ]
      resources = ["*"]
    }
  }

  dynamic "statement" {
    for_each = var.invoke_models ? [1] : []
    content {
      sid = "DescribeModels"
      # The last two: limits and prices go by the models behind a prompt router or provisioned throughput.
      actions = [
        "bedrock:GetFoundationModel",
        "bedrock:GetInferenceProfile",
        "bedrock:GetPromptRouter",
        "bedrock:GetProvisionedModelThroughput",
      ]
      resources = [
        "${local.bedrock}::foundation-model/*",
        "${local.bedrock}:${local.account}:inference-profile/*",
        "${local.bedrock}:${local.account}:application-inference-profile/*",
        "${local.bedrock}:${local.account}:default-prompt-router/*",
        "${local.bedrock}:${local.account}:prompt-router/*",
        "${local.bedrock}:${local.account}:provisioned-model/*",
      ]
    }
  }

  dynamic "statement" {
    for_each = var.invoke_models && var.create_profiles ? [1] : []
    content {
      sid     = "CreateProfiles"
      actions = ["bedrock:CreateInferenceProfile", "bedrock:TagResource"]
      resources = [
        "${local.bedrock}::foundation-model/*",
        "${local.bedrock}:${local.account}:inference-profile/us-gov.*",
        "${local.bedrock}:${local.account}:application-inference-profile/*",
      ]
    }
  }

  dynamic "statement" {
    for_each = var.invoke_models && var.use_mantle ? [1] : []
    content {
      sid = "UseMantle"
      actions = [
        "bedrock-mantle:CreateInference",
        "bedrock-mantle:CountTokens",
        "bedrock-mantle:Get*",
        "bedrock-mantle:List*",
      ]
      resources = ["arn:${data.aws_partition.here.partition}:bedrock-mantle:*:${local.account}:project/*"]
    }
  }

  dynamic "statement" {
    for_each = var.anchor_bucket == null ? [] : [var.anchor_bucket]
    content {
      sid = "WriteAnchors"
      # The second one: each anchor comes with its own time of retention (Object Lock).
      actions   = ["s3:PutObject", "s3:PutObjectRetention"]
      resources = ["arn:${data.aws_partition.here.partition}:s3:::${join("/", compact([statement.value, var.anchor_prefix]))}/*"]
    }
  }

  dynamic "statement" {
    for_each = local.own_key ? [var.kms_key_arn] : []
    content {
      sid       = "UseTheKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = [for service in ["secretsmanager", "dynamodb"] : "${service}.${data.aws_region.here.name}.amazonaws.com"]
      }
    }
  }
}

data "aws_iam_policy_document" "auditor" {
  statement {
    sid       = "ReadRecords"
    actions   = ["dynamodb:DescribeTable", "dynamodb:Query", "dynamodb:Scan"]
    resources = [aws_dynamodb_table.requests.arn, "${aws_dynamodb_table.requests.arn}/index/*"]
  }

  dynamic "statement" {
    for_each = local.own_key ? [var.kms_key_arn] : []
    content {
      sid       = "UseTheKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["dynamodb.${data.aws_region.here.name}.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_policy" "host" {
  name_prefix = "bedrock-sidecar-host-"
  description = "What a host with bedrock-sidecar does in GovCloud, and nothing else."
  policy      = data.aws_iam_policy_document.host.json
}

resource "aws_iam_policy" "auditor" {
  name_prefix = "bedrock-sidecar-auditor-"
  description = "Reads the records of the fleet; also for hosts whose dashboard asks with source=dynamodb."
  policy      = data.aws_iam_policy_document.auditor.json
}

resource "aws_iam_role_policy_attachment" "host" {
  count      = var.host_role_name == null ? 0 : 1
  role       = var.host_role_name
  policy_arn = aws_iam_policy.host.arn
}

output "table_name" {
  value = aws_dynamodb_table.requests.name
}

output "secret_arn" {
  value = aws_secretsmanager_secret.commercial.arn
}

output "host_policy_arn" {
  value = aws_iam_policy.host.arn
}

output "auditor_policy_arn" {
  value = aws_iam_policy.auditor.arn
}
