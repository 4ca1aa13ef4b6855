# bedrock-sidecar in the commercial partition: what the credential that travels to GovCloud may do. Attach the policy to the
# user of a Bedrock API key, or to the role of a certificate (IAM Roles Anywhere).

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "geography" {
  description = "Prefix of the inference profiles that may be used; models.geographies of the daemon's configuration."
  type        = string
  default     = "us"
}

variable "regions" {
  description = "Regions that may serve requests; a cross-region profile needs all regions of its geography."
  type        = list(string)
  default     = ["us-east-1", "us-east-2", "us-west-2"]
}

variable "create_profiles" {
  description = "Whether the daemon may create application inference profiles, for models that can be invoked through such a one only. If you say false, set models.create_profiles = false in the daemon's configuration."
  type        = bool
  default     = true
}

data "aws_partition" "here" {}
data "aws_caller_identity" "here" {}

locals {
  bedrock = "arn:${data.aws_partition.here.partition}:bedrock:*"
  account = data.aws_caller_identity.here.account_id
}

data "aws_iam_policy_document" "invoke" {
  statement {
    sid     = "InvokeModels"
    actions = ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream", "bedrock:CountTokens"]
    resources = [
      "${local.bedrock}::foundation-model/*",
      "${local.bedrock}:${local.account}:inference-profile/${var.geography}.*",
      "${local.bedrock}:${local.account}:application-inference-profile/*",
    ]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestedRegion"
      values   = var.regions
    }
  }

  statement {
    sid = "FindModels"
    # These know no resource in IAM.
    actions   = ["bedrock:ListFoundationModels", "bedrock:ListInferenceProfiles"]
    resources = ["*"]
  }

  statement {
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

  statement {
    sid       = "UseAnApiKey"
    actions   = ["bedrock:CallWithBearerToken"]
    resources = ["*"]
  }

  dynamic "statement" {
    for_each = var.create_profiles ? [1] : []
    content {
      sid     = "CreateProfiles"
      actions = ["bedrock:CreateInferenceProfile", "bedrock:TagResource"]
      resources = [
        "${local.bedrock}::foundation-model/*",
        "${local.bedrock}:${local.account}:inference-profile/${var.geography}.*",
        "${local.bedrock}:${local.account}:application-inference-profile/*",
      ]
    }
  }
}

resource "aws_iam_policy" "invoke" {
  name_prefix = "bedrock-sidecar-invoke-"
  description = "Invokes Bedrock models of one geography for bedrock-sidecar."
  policy      = data.aws_iam_policy_document.invoke.json
}

output "invoke_policy_arn" {
  value = aws_iam_policy.invoke.arn
}
